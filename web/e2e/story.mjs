// Plays the whole story in a real browser: two objects by clicks, followed, one corrected, a reload, an export, undo to the start.
//
//   node e2e/story.mjs LINK VIDEO FOLDER X1,Y1 X2,Y2
//
// LINK is what `hodor serve` prints, VIDEO the name of a file below its root, the points (shares of the frame's width and
// height) are on two objects. Screenshots go to FOLDER. Prints one JSON object; exit code 1 where an expectation fails.
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

const [link, video, folder, ...points] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
  ],
});
const page = await browser.newPage({ viewport: { width: 1360, height: 850 }, acceptDownloads: true });
const problems = [];
const hosts = new Set();
page.on("pageerror", (error) => problems.push(error.message));
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("request", (request) => hosts.add(new URL(request.url()).host || request.url().slice(0, 5)));

const began = Date.now();
let shots = 0;
const shot = (name) => page.screenshot({ path: `${folder}/${++shots}-${name}.png` });
const button = (name) => page.getByRole("button", { name, exact: true });
const message = () => page.getByTestId("message").textContent();
const objects = () => page.getByTestId("objects").locator("li").count();

function expect(is, what) {
  if (!is) throw new Error(`expected ${what}`);
}

async function until(what, is, seconds = 60) {
  const end = Date.now() + 1000 * seconds;
  while (!(await is())) {
    if (Date.now() > end) throw new Error(`expected ${what} within ${seconds} s; message: ${await message().catch(() => "")}`);
    await page.waitForTimeout(50);
  }
}

/** Colour of the middle of a small area of the picture. */
async function colourAt(x, y) {
  await page.waitForTimeout(120);
  return page.evaluate(([fx, fy]) => {
    const canvas = document.querySelector("[data-testid=canvas] canvas");
    const gl = canvas.getContext("webgl2");
    const pixel = new Uint8Array(4);
    gl.readPixels(Math.round(fx * canvas.width), Math.round((1 - fy) * canvas.height), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    return [...pixel].slice(0, 3);
  }, await inCanvas(x, y));
}

/** Share of the canvas for a share of the frame. */
async function inCanvas(x, y) {
  const { view, size, canvas } = await page.evaluate(() => {
    const holder = document.querySelector("[data-testid=canvas]");
    return { ...JSON.parse(holder.dataset.view), canvas: [holder.clientWidth, holder.clientHeight] };
  });
  return [(view.left + x * size.width * view.scale) / canvas[0], (view.top + y * size.height * view.scale) / canvas[1]];
}

async function mouseAt(x, y) {
  const box = await page.getByTestId("canvas").boundingBox();
  const [fx, fy] = await inCanvas(x, y);
  return [box.x + fx * box.width, box.y + fy * box.height];
}

const saved = () => page.waitForTimeout(400);
const figures = {};
try {
  await page.goto(link);
  expect(!page.url().includes("token"), "no token in the address after it was read");
  await button(video).waitFor();
  await shot("open");
  await button(video).click();
  await page.locator('[data-testid=canvas][data-frame="0"]').waitFor();
  await shot("opened");
  const plain = [];
  for (const [k, point] of points.entries()) {
    const [x, y] = point.split(",").map(Number);
    plain.push(await colourAt(x, y));
    await button("New").click();
    await until("one more object", async () => (await objects()) === k + 1);
    await button("click").click();
    const start = Date.now();
    await page.mouse.click(...(await mouseAt(x, y)));
    await until("a mask below the click", async () => String(await colourAt(x, y)) !== String(plain[k]));
    figures[`click ${k + 1}, ms`] = Date.now() - start;
  }
  await shot("clicked");
  await button("follow all").click();
  await until("the propagation to begin", async () => !(await button("Stop").isDisabled()), 20);
  await until("the propagation to end", async () => button("Stop").isDisabled(), 300);
  await shot("followed");
  for (let k = 0; k < 4; k++) await page.keyboard.press("ArrowRight");
  await page.locator('[data-testid=canvas][data-frame="4"]').waitFor();
  await shot("frame-4");

  // correct the first object with the eraser; only its frames up to the next given one are computed again
  await page.getByRole("button", { name: "Choose (1)" }).or(page.getByTitle("Choose (1)")).first().click();
  await button("brush").click();
  const [bx, by] = [0.08, 0.9];
  const empty = await colourAt(bx, by);
  await page.mouse.move(...(await mouseAt(bx - 0.03, by)));
  await page.mouse.down();
  const start = Date.now();
  await page.mouse.move(...(await mouseAt(bx + 0.03, by)), { steps: 8 });
  await page.mouse.up();
  await until("the stroke", async () => String(await colourAt(bx, by)) !== String(empty));
  figures["stroke, ms with the wait of this script"] = Date.now() - start;
  await saved();
  await shot("corrected");
  await button("follow all").click();
  await until("the propagation to end", async () => (await page.waitForTimeout(500), button("Stop").isDisabled()), 300);

  // a reload restores everything
  const before = await colourAt(bx, by);
  await page.reload();
  await page.locator('[data-testid=canvas][data-frame="4"]').waitFor();
  await until("both objects after the reload", async () => (await objects()) === points.length);
  await until("the correction after the reload", async () => String(await colourAt(bx, by)) === String(before));
  await shot("reloaded");

  await button("Export").click();
  await page.getByRole("dialog").getByRole("button", { name: "Export", exact: true }).click();
  await page.getByTestId("exported").waitFor({ timeout: 120_000 });
  await shot("exported");
  const [download] = await Promise.all([page.waitForEvent("download"), button("Download zip").click()]);
  await download.saveAs(`${folder}/export.zip`);
  await page.getByRole("dialog").getByRole("button", { name: "Close", exact: true }).click();

  // undo to the beginning: nothing is left
  let undone = 0;
  for (; (await objects()) > 0 && undone < 10; undone++) {
    await button("Undo").click();
    await saved();
  }
  expect((await objects()) === 0, "no object after undo");
  await page.keyboard.press("Home");
  await page.locator('[data-testid=canvas][data-frame="0"]').waitFor();
  const [x, y] = points[0].split(",").map(Number);
  await until("the plain picture", async () => String(await colourAt(x, y)) === String(plain[0]), 10);
  await shot("undone");
  for (let k = 0; k < undone; k++) {
    await button("Redo").click();
    await saved();
  }
  await until("both objects after redo", async () => (await objects()) === points.length);
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await shot("keys");
  expect(!problems.length, `no error in the console, got ${problems.join("; ")}`);
  expect(hosts.size <= 3 && [...hosts].every((host) => host === new URL(link).host || /^(blob:|data:)/.test(host)), `requests to this server only, got ${[...hosts]}`);
  console.log(JSON.stringify({ seconds: (Date.now() - began) / 1000, ...figures }));
} catch (error) {
  await shot("failed");
  console.log(JSON.stringify({ failed: error.message, problems }));
  process.exitCode = 1;
} finally {
  await browser.close();
}
