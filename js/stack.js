// Of the rows of the LoRA stack, only those that are used are shown, and one more to choose the next one in.
import { after } from "./changes.js";
import { hide, redraw } from "./hide.js";

const NONE = "none";

/** Let the rows of `node` come and go as they are used. */
export function growStack(node) {
  const widget = (name) => node.widgets.find((each) => each.name === name);
  const rows = [];
  while (widget(`lora_${rows.length + 1}`))
    rows.push([widget(`lora_${rows.length + 1}`), widget(`strength_${rows.length + 1}`)]);

  const show = () => {
    const last = rows.findLastIndex(([lora]) => lora.value !== NONE);
    rows.forEach(([lora, strength], row) => {
      hide(lora, row > last + 1);
      hide(strength, lora.value === NONE);
    });
    redraw(node);
  };
  const resize = () => {
    const before = node.computeSize()[1];
    show();
    node.setSize([node.size[0], node.size[1] + node.computeSize()[1] - before]);
  };
  for (const [lora] of rows) after(lora, "callback", resize);
  after(node, "onConfigure", show); // the values of a saved workflow have come, and so has its size
  resize();
}
