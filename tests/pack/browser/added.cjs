// How high new nodes are, of { workflow, kinds }, and what a LoRA stack shows when it is new, once a file is chosen in it,
// and once none is any more; and what a sampler shows of its frame rate once its advanced inputs are unfolded:
//   { heights: { kind: [height, what its inputs that are shown need] }, rows: [[height, names]], rate: [names] }
const { visit } = require("./page.cjs");

visit(1000, async (page, { kinds }) => {
  await page.evaluate(place, kinds);
  await page.waitForTimeout(500);
  return { heights: await page.evaluate(look), rows: await page.evaluate(grow), rate: await page.evaluate(unfold) };
});

function place(kinds) {
  window.added = kinds.map((kind) => app.graph.add(LiteGraph.createNode(kind)) && app.graph.nodes.at(-1));
}

function look() {
  return Object.fromEntries(window.added.map((node) => [node.type, [node.size[1], node.computeSize()[1]]]));
}

function grow() {
  const node = window.added.find(({ type }) => type === "LTX2AVLoraStack");
  const [first] = node.widgets.filter(({ name }) => name === "lora_1");
  return ["none", "a.safetensors", "none"].map((chosen) => {
    first.value = chosen;
    first.callback(chosen);
    const shown = node.widgets.filter(({ hidden, name }) => !hidden && /_[0-9]/.test(name));
    return [node.size[1], shown.map(({ name }) => name)];
  });
}

function unfold() {
  const node = window.added.find(({ type }) => type === "LTX2AVSample");
  const isShown = (widget) => node.isWidgetVisible?.(widget) ?? !widget.hidden;
  const rate = () => node.widgets.filter((each) => each.name.startsWith("fps") && isShown(each)).map(({ name }) => name);
  const folded = rate();
  node.widgets.find(({ name }) => name === "advanced inputs").callback();
  return [...folded, ...rate()];
}
