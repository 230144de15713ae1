// Words in place of numbers, of { workflow, kind } in its node of this kind: as it is loaded, and when each choice is set
// to "by hand", and to its first word again. What was seen, each time:
//   { shown: { name of a widget: value }, sent: { input: value }, saved: [value] }
const { visit } = require("./page.cjs");

visit(1000, async (page, { kind }) => {
  await page.waitForTimeout(1500);
  const seen = { loaded: await page.evaluate(look, kind) };
  for (const way of ["by hand", "words"]) {
    await page.evaluate(choose, [kind, way]);
    await page.waitForTimeout(300);
    seen[way] = await page.evaluate(look, kind);
  }
  return seen;
});

async function look(kind) {
  const node = app.graph.nodes.find((each) => each.type === kind);
  const lines = document.querySelector(`[data-node-id="${node.id}"]`)?.innerText.split("\n"); // in Nodes 2.0
  const isShown = ({ label, hidden, element }) => label && !element && (lines ? lines.includes(label) : !hidden);
  return {
    shown: Object.fromEntries(node.widgets.filter(isShown).map(({ name, value }) => [name, value])),
    sent: (await app.graphToPrompt()).output[node.id].inputs,
    saved: node.serialize().widgets_values,
  };
}

function choose([kind, way]) {
  const node = app.graph.nodes.find((each) => each.type === kind);
  for (const widget of node.widgets.filter(({ name }) => name.endsWith(" is"))) {
    widget.value = way === "by hand" ? way : widget.options.values[0];
    widget.callback(widget.value);
  }
}
