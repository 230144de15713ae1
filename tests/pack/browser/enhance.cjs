// The button of a node of { workflow, kind } after it has said { said }: what stands in "edited" before and after it is
// pressed, how many values a saved graph has, and how many such buttons are drawn.
const { visit } = require("./page.cjs");

visit(1000, async (page, { kind, said }) => {
  await page.waitForTimeout(500);
  return page.evaluate(press, [kind, said]);
});

function press([kind, said]) {
  const node = app.graph.nodes.find((each) => each.type === kind);
  const named = (name) => node.widgets.find((each) => each.name === name);
  const before = named("edited").value;
  named("ltx2av_messages").value = said;
  named("edit what was written").callback();
  const buttons = node.widgets.filter(({ name }) => name === "edit what was written").length;
  return { before, edited: named("edited").value, saved: node.serialize().widgets_values.length, buttons };
}
