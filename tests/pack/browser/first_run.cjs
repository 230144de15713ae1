// The first run of somebody who has never been here, of { pack, template, screenshot }: ComfyUI opens its templates by
// itself; those of the pack are chosen, then the one, then Run. What was seen:
//   { clicks, end, seconds: { whole, run }, previews: how many came, pictures: how many different ones were drawn,
//     video: whether the clip plays on the page }
const { open } = require("./page.cjs");

open(1000, async (page, { pack, template, screenshot }) => {
  const begin = Date.now();
  let clicks = 0;
  const click = async (target) => {
    await target.click({ timeout: 60000 });
    clicks++;
  };
  await click(page.getByText(pack, { exact: true }));
  await click(page.getByTestId(`template-workflow-${template}`));
  await page.waitForFunction((kind) => app.graph.nodes.some((each) => each.type === kind), "LTX2AVSample", { timeout: 60000 });
  await page.evaluate(watch);
  const run = Date.now();
  await click(page.getByTestId("queue-button"));
  await page.waitForFunction(() => seen.end, null, { timeout: 180000 });
  const seconds = { whole: (Date.now() - begin) / 1000, run: (Date.now() - run) / 1000 };
  await page.waitForFunction(() => document.querySelector("video")?.readyState > 1, null, { timeout: 30000 });
  await page.screenshot({ path: screenshot });
  return { clicks, seconds, ...(await page.evaluate(() => ({ ...seen, pictures: seen.pictures.size, video: true }))) };
});

function watch() {
  window.seen = { end: null, previews: 0, pictures: new Set() };
  app.api.addEventListener("ltx2av.preview", () => seen.previews++);
  for (const end of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(end, () => (seen.end = end));
  const look = () => {
    const canvas = document.querySelector(".ltx2av-preview canvas");
    if (canvas?.offsetParent) seen.pictures.add(canvas.toDataURL());
    if (!seen.end) setTimeout(look, 100);
  };
  look();
}
