// The strip of a timeline in { workflow, screenshot }: what it shows, and what the JSON is after each of the usual ways to
// change it: keys, the mouse, a number, undo, a copy. What was seen:
//   { shown: [[lane, text]], json: { way: JSON }, places: before and after a drag that was cancelled,
//     backgrounds: of a picture, and of one whose file is written out, sent, copied,
//     hidden, inside: what a subgraph of it sends, stays: whether the focus is still in the strip after Tab,
//     ink: the colours of what is written on the strip while a light theme writes in black,
//     told: what is said of a file that ComfyUI refuses, broken: what is said of each of the texts `broken` in its place,
//     address: where a file is shown that Windows named }
const { visit } = require("./page.cjs");

visit(1000, async (page, { workflow, broken, screenshot }) => {
  await page.waitForSelector(".ltx2av-timeline article");
  await page.evaluate(() => app.extensionManager.command.execute("Comfy.Canvas.FitView"));
  await page.waitForTimeout(1000); // it moves there slowly
  const json = {};
  const keep = async (way) => (json[way] = JSON.parse(await page.evaluate(value)));
  const item = (lane, number = 0) => page.locator(`.ltx2av-strip [data-lane=${lane}] article`).nth(number);
  const shown = await page.evaluate(items);
  const address = await page.evaluate(addressOfWindows);
  const ink = await page.evaluate(inkOfLightTheme);
  await page.screenshot({ path: screenshot });

  await item("pictures").focus();
  await page.keyboard.press("ArrowRight");
  await keep("key");
  await page.keyboard.press("Shift+ArrowRight");
  await keep("second");
  await page.keyboard.press("Control+z");
  await page.waitForTimeout(800);
  await keep("undone");
  await item("prompts", 1).focus();
  await page.keyboard.press("Delete");
  await keep("removed");
  await drag(page, item("retakes"), 0.25);
  await keep("dragged");
  const places = [await item("retakes").getAttribute("style")];
  await drag(page, item("retakes"), -0.25, cancel);
  places.push(await item("retakes").getAttribute("style"));
  for (const seconds of ["4", "99999"]) {
    await page.locator(".ltx2av-timeline input[type=number]").first().fill(seconds);
    await page.keyboard.press("Tab");
  }
  await keep("length");
  await page.getByRole("button", { name: "+ prompt" }).click();
  await page.locator(".ltx2av-timeline textarea").fill("then a dog");
  await keep("written");
  await drag(page, item("retakes"), 0.125);
  await keep("added");
  await page.getByRole("button", { name: "+ retake" }).click();
  await keep("retaken");
  await page.keyboard.press("Delete");
  await item("pictures").focus();
  const backgrounds = [await item("pictures").evaluate(background)];
  await page.locator(".ltx2av-timeline label", { hasText: "file" }).locator("input").fill("");
  await page.keyboard.press("Tab");
  backgrounds.push(await item("pictures").evaluate(background));
  await item("prompts").focus();
  await page.locator(".ltx2av-timeline textarea").focus();
  await page.keyboard.type("!");
  await page.keyboard.press("Tab");
  const stays = await page.evaluate(() => document.activeElement.matches(".ltx2av-timeline input"));
  await keep("told");
  const told = [await refused(page), await unknown(page)];
  const sent = (await page.evaluate(() => app.graphToPrompt())).output;
  const copied = await page.evaluate(copy);
  const hidden = await page.evaluate(() => app.graph.nodes[0].widgets.find(({ name }) => name === "timeline").hidden);
  const inside = await page.evaluate(inSubgraph);
  const seen = [];
  for (const text of broken) seen.push(await page.evaluate(load, [workflow, text]));
  await page.evaluate(drop, ["large.mp4", "video/mp4"]); // which has no strip to lie on
  await page.waitForTimeout(100);
  return { shown, address, ink, json, places, backgrounds, sent, copied, hidden, inside, stays, told, broken: seen };
});

// A file that is dropped while ComfyUI takes none.
async function refused(page) {
  await page.route("**/upload/image", (route) => route.fulfill({ status: 413 }));
  await page.evaluate(drop, ["large.mp4", "video/mp4"]);
  return saidOf(page, "large.mp4");
}

// A file that is dropped and has no lane.
async function unknown(page) {
  await page.evaluate(drop, ["notes.txt", "text/plain"]);
  return saidOf(page, "notes.txt");
}

function saidOf(page, hasText) {
  const toasts = `.p-toast-message, [data-testid="toast"]`; // of older and newer front ends
  return page.locator(toasts, { hasText }).textContent({ timeout: 5000 });
}

function drop([name, type]) {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["a file"], name, { type }));
  const strip = document.querySelector(".ltx2av-strip");
  strip.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
}

async function load([workflow, text]) {
  const graph = structuredClone(workflow);
  graph.nodes[0].widgets_values[0] = text;
  await app.loadGraphData(graph);
  return document.querySelector(".ltx2av-timeline output").textContent;
}

function value() {
  return app.graph.nodes[0].widgets.find(({ name }) => name === "timeline").value;
}

async function addressOfWindows() {
  return (await import("/extensions/ltx2-av/files.js")).address("sub\\a.png");
}

function items() {
  const all = [...document.querySelectorAll(".ltx2av-strip article")];
  return all.map((each) => [each.parentElement.dataset.lane, each.textContent]);
}

// A saved node that is loaded again holds the same strip.
function copy() {
  const other = LiteGraph.createNode("LTX2AVTimeline");
  app.graph.add(other);
  other.configure({ ...app.graph.nodes[0].serialize(), id: other.id });
  return other.widgets.find(({ name }) => name === "timeline").value;
}

async function inSubgraph() {
  app.canvas.graph.convertToSubgraph(new Set([app.graph.nodes[0]]));
  const { output } = await app.graphToPrompt();
  const [id] = Object.keys(output).filter((each) => each.includes(":"));
  return output[id].inputs.timeline;
}

function inkOfLightTheme() {
  const strip = document.querySelector(".ltx2av-timeline");
  for (const name of ["--input-text", "--descrip-text"]) strip.style.setProperty(name, "black");
  const written = [...strip.querySelectorAll(".ltx2av-strip :is(article, section, span)")];
  const ink = [...new Set(written.map((each) => getComputedStyle(each).color))];
  for (const name of ["--input-text", "--descrip-text"]) strip.style.removeProperty(name);
  return ink;
}

function background(element) {
  return element.style.backgroundImage;
}

function cancel() {
  window.dispatchEvent(new PointerEvent("pointercancel"));
}

async function drag(page, item, share, end = () => {}) {
  const box = await item.boundingBox();
  const track = await page.locator(".ltx2av-strip > div").boundingBox();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x + track.width * share, y, { steps: 5 });
  await page.evaluate(end);
  await page.mouse.up();
}
