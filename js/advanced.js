// On the canvas, advanced inputs are folded away behind a button, as Nodes 2.0 folds them by itself.
import { app } from "../../scripts/app.js";

const ALWAYS = "Comfy.Node.AlwaysShowAdvancedWidgets"; // ComfyUI's own setting

/** Fold the advanced inputs of `node` away until its button is pressed. */
export function foldAdvanced(node) {
  const advanced = node.widgets?.filter((widget) => widget.options?.advanced) ?? [];
  if (!advanced.length) return;
  const isNew = Boolean(advanced[0].visibility); // a front end of autumn 2026
  if (isNew) foldByNode(node, new Set(advanced));
  else for (const widget of advanced) foldByWidget(node, widget);
  const toggle = () => {
    node.showAdvanced = !node.showAdvanced;
    node.setSize([node.size[0], node.computeSize()[1]]);
    node.setDirtyCanvas(true, true);
  };
  // For the canvas alone: that of older front ends does not ask whether a widget is hidden by its options.
  const where = isNew ? { surfaces: { canvas: "shown", vueNode: "never", panel: "never" } } : { hidden: true };
  const button = node.addWidget("button", "advanced inputs", null, toggle, { serialize: false, ...where });
  button.serialize = false;
}

// New front ends ask the node which widgets have a row and are seen; older ones ask the widgets.
function foldByNode(node, advanced) {
  const hasRoom = (widget) => !(advanced.has(widget) && isFolded(node, widget));
  for (const question of ["isWidgetVisible", "isWidgetRowVisible"]) {
    const before = node[question];
    node[question] = (widget) => hasRoom(widget) && before.call(node, widget);
  }
  const { getLayoutWidgets } = node;
  node.getLayoutWidgets = () => getLayoutWidgets.call(node).filter(hasRoom);
}

function foldByWidget(node, widget) {
  Object.defineProperty(widget, "hidden", { configurable: true, get: () => isFolded(node, widget), set() {} });
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
