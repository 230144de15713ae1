// LTX-2 Enhance Prompt: a button that puts what was written where it can be changed.
import { saidBy } from "./messages.js";

/** Add that button to `node`. */
export function offerEditing(node) {
  const edit = () => {
    const written = saidBy(node).split("\n").at(-1);
    const edited = node.widgets.find(({ name }) => name === "edited");
    if (written && edited) edited.value = written;
  };
  node.addWidget("button", "edit what was written", null, edit, { serialize: false }).serialize = false;
}
