// On the canvas, advanced inputs are folded away behind a button, as Nodes 2.0 folds them by itself.
import { app } from "../../scripts/app.js";

const ALWAYS = "Comfy.Node.AlwaysShowAdvancedWidgets"; // ComfyUI's own setting

/** Fold the advanced inputs of `node` away until its button is pressed. */
export function foldAdvanced(node) {
  const advanced = node.widgets?.filter((widget) => widget.options?.advanced) ?? [];
  if (!advanced.length) return;
  for (const widget of advanced) {
    Object.defineProperty(widget, "hidden", { configurable: true, get: () => isFolded(node, widget), set() {} });
  }
  const toggle = () => {
    node.showAdvanced = !node.showAdvanced;
    node.setSize([node.size[0], node.computeSize()[1]]);
    node.setDirtyCanvas(true, true);
  };
  // Nodes 2.0 leaves widgets out whose options say so; the canvas does not ask them.
  const button = node.addWidget("button", "advanced inputs", null, toggle, { serialize: false, hidden: true });
  button.serialize = false;
}

/** Whether a widget has no room: one that a wire leads to always has. Nodes 2.0 has a button for the same choice. */
function isFolded(node, widget) {
  if (widget.aside) return true; // a word is shown instead: see words.js
  if (node.showAdvanced || app.ui.settings.getSettingValue(ALWAYS)) return false;
  return !isLinked(node, widget.name);
}

/** Whether a wire leads to the input of this name. */
export function isLinked(node, name) {
  return node.inputs?.some((input) => input.name === name && input.link != null) ?? false;
}
