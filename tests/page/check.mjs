// Looks at the page as its readers do: on a phone, a tablet and a desktop, by day and by night,
// with and without JavaScript, in the browser that Debian has; and judges it by axe's rules.
//
//     node check.mjs BASE_URL FOLDER NAME            one page, as it stands; pictures go to FOLDER
//     node check.mjs BASE_URL FOLDER NAME --watch    a page that changes: the server turns at a
//                                                    POST to /turn/healthy, failed, broken, frozen,
//                                                    slow or gone
//
// It prints a line for each check, and ends with 1 if one of them fails.
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const tools = fileURLToPath(new URL("../../target/tools/browser/package.json", import.meta.url));
const { chromium } = createRequire(tools)("playwright-core");
const axe = createRequire(tools)("axe-core");

const [base, folder, name, mode] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });
const WIDTHS = [360, 768, 1440];
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
let failures = 0;

function check(what, wrong) {
  const isWrong = Array.isArray(wrong) ? wrong.length > 0 : Boolean(wrong);
  failures += isWrong ? 1 : 0;
  const detail = isWrong ? `: ${Array.isArray(wrong) ? wrong.join("; ") : wrong}` : "";
  console.log(`${isWrong ? "FAIL" : "ok  "} ${name}: ${what}${detail}`);
}

// A page, and everything that it should not have said or asked.
async function open(browser, options) {
  const context = await browser.newContext({ ...options, serviceWorkers: "block" });
  const page = await context.newPage();
  const said = [];
  const asked = [];
  page.on("console", (line) => {
    if (["error", "warning"].includes(line.type())) {
      said.push(line.text());
    }
  });
  page.on("pageerror", (error) => said.push(String(error)));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith("data:") && new URL(url).origin !== new URL(base).origin) {
      asked.push(url);
    }
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
    });
  });
  const answer = await page.goto(base, { waitUntil: "load" });
  return { context, page, said, asked, answer };
}

async function violations(page) {
  await page.evaluate(axe.source);
  const result = await page.evaluate(
    (tags) => globalThis.axe.run(document, { runOnly: { type: "tag", values: tags } }),
    RULES,
  );
  return result.violations.map(({ id, nodes }) => {
    const [first] = nodes;
    return `${id} (${nodes.length}), as in ${first.target}: ${first.failureSummary.replace(/\s+/g, " ")}`;
  });
}

// What sticks out on the right, if anything does.
function overflow(page) {
  return page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) {
      return [];
    }
    const wide = [...document.querySelectorAll("body *")].filter(
      (one) => one.getBoundingClientRect().right > width + 1,
    );
    return [`${document.documentElement.scrollWidth} > ${width}`, ...wide.slice(0, 3).map((one) => one.outerHTML.slice(0, 90))];
  });
}

async function look(browser, width, colorScheme, javaScriptEnabled) {
  const how = `${width} ${colorScheme}${javaScriptEnabled ? "" : " without JavaScript"}`;
  const viewport = { width, height: width < 600 ? 740 : 900 };
  const { context, page, said, asked, answer } = await open(browser, { viewport, colorScheme, javaScriptEnabled });
  const policy = answer.headers()["content-security-policy"] ?? "";
  check(`${how}: it comes with its policy`, policy.startsWith("default-src 'none'") ? "" : policy || "none");
  console.log(`info ${name}: ${how}: ${(await answer.body()).length} bytes`);
  check(`${how}: it can be seen`, (await page.locator("h1").isVisible()) ? "" : "no heading");
  const ground = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const isDark = Number(/\d+/.exec(ground)?.[0]) < 128;
  check(`${how}: its colours are of the day or the night`, isDark === (colorScheme === "dark") ? "" : ground);
  check(`${how}: nothing sticks out`, await overflow(page));
  if (javaScriptEnabled) {
    await page.locator("html.live").waitFor({ timeout: 10_000 });
    const summaries = (await page.locator("summary").all()).slice(0, 3);
    for (const summary of summaries) {
      await summary.click();
    }
    check(`${how}: nothing sticks out with details open`, await overflow(page));
    check(`${how}: axe finds nothing`, await violations(page));
    check(`${how}: the policy is kept`, await page.evaluate(() => globalThis.violations));
    await page.keyboard.press("Tab");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    check(`${how}: the focus can be seen`, outline === "solid" ? "" : `outline: ${outline}`);
    await page.emulateMedia({ reducedMotion: "reduce" });
    const moving = await page.evaluate(() => document.getAnimations().length);
    check(`${how}: nothing moves for who wants no motion`, moving ? `${moving} animations` : "");
    for (const summary of summaries) {
      await summary.click();
    }
    await page.evaluate(() => document.activeElement.blur());
  } else {
    const refresh = await page.locator("meta[http-equiv=refresh][content='10']").count();
    check(`${how}: it comes again by itself`, refresh === 1 ? "" : "no refresh");
  }
  await page.evaluate(() => scrollTo(0, 0));
  const suffix = javaScriptEnabled ? "" : "-plain";
  await page.screenshot({ path: `${folder}/${name}-${width}-${colorScheme}${suffix}.png`, fullPage: true });
  check(`${how}: the console is quiet`, said);
  check(`${how}: nobody else is asked`, asked);
  await context.close();
}

async function turn(what) {
  const answer = await fetch(new URL(`/turn/${what}`, base), { method: "POST" });
  if (!answer.ok) {
    throw new Error(`the server does not know how to be ${what}`);
  }
}

// Whether it becomes so in time.
async function becomes(page, what, condition, seconds = 20) {
  const happened = page.waitForFunction(condition, undefined, { timeout: seconds * 1000 });
  check(what, await happened.then(() => "", (error) => String(error).split("\n")[0]));
}

async function watch(browser) {
  const viewport = { width: 1024, height: 500 };
  const { context, page, said, asked } = await open(browser, { viewport, colorScheme: "light" });
  await page.locator("html.live").waitFor();

  // A reader who is in the middle of something.
  const more = page.locator("article details").last();
  const id = await more.getAttribute("id");
  await more.locator("summary").click();
  const before = await page.evaluate((id) => {
    const summary = document.getElementById(id).firstChild;
    summary.scrollIntoView({ block: "center" });
    globalThis.kept = summary;
    return summary.getBoundingClientRect().top;
  }, id);
  await turn("failed");
  await becomes(page, "the page follows a change", () => document.documentElement.dataset.state === "fail");
  await becomes(page, "its title follows", () => document.title.startsWith("✗"));
  await becomes(page, "the change is told to those who listen", () => /not ready/.test(document.getElementById("news").textContent));
  const after = await page.evaluate((id) => {
    const details = document.getElementById(id);
    const isKept = globalThis.kept === details.firstChild && document.activeElement === globalThis.kept;
    return { isOpen: details.open, isKept, top: globalThis.kept.getBoundingClientRect().top };
  }, id);
  check("what was open stays open", after.isOpen ? "" : "closed");
  check("the focus stays where it was", after.isKept ? "" : "lost");
  check("the place stays where it was", Math.abs(after.top - before) < 2 ? "" : `${before} became ${after.top}`);
  check("the policy is kept by an update", await page.evaluate(() => globalThis.violations));
  check("the console is quiet until now", said);

  const isSilent = () =>
    document.documentElement.classList.contains("stale") &&
    /^No answer since \d\d:\d\d:\d\d UTC/.test(document.getElementById("silence").textContent) &&
    document.title.startsWith("? no answer since") &&
    document.querySelector("link[rel=icon]").getAttribute("href") ===
      document.querySelector("link[rel=icon]").dataset.silent;
  const isWell = () =>
    !document.documentElement.classList.contains("stale") &&
    document.getElementById("silence").textContent === "" &&
    document.title.startsWith("✓");
  for (const what of ["broken", "other", "slow", "gone"]) {
    await turn("healthy");
    await becomes(page, `well before ${what}`, isWell);
    await turn(what);
    await becomes(page, `a server that is ${what} is told`, isSilent, 25);
    const colours = await page.evaluate(() => {
      const shown = document.createElement("p");
      shown.className = "badge pass";
      document.body.append(shown);
      const colour = getComputedStyle(shown).color;
      shown.remove();
      return colour.match(/\d+/g).map(Number);
    });
    const spread = Math.max(...colours) - Math.min(...colours);
    check(`nothing is green while it is ${what}`, spread < 24 ? "" : `rgb(${colours})`);
  }
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: `${folder}/${name}-gone-light.png` });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.screenshot({ path: `${folder}/${name}-gone-dark.png` });
  check("axe finds nothing in the old answer by night", await violations(page));
  await page.emulateMedia({ colorScheme: "light" });
  check("axe finds nothing in the old answer", await violations(page));

  // The same report for half a minute is somebody's copy.
  await turn("healthy");
  await becomes(page, "well before frozen", isWell);
  await turn("frozen");
  await becomes(page, "an answer that never changes is told", isSilent, 50);

  // A tab in the background asks nobody, and does not look well.
  await turn("healthy");
  await becomes(page, "well before it is hidden", isWell);
  let questions = 0;
  page.on("request", () => (questions += 1));
  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  const isPaused = () => document.title.startsWith("paused") && document.documentElement.classList.contains("stale");
  await becomes(page, "a hidden page does not look well", isPaused);
  await page.waitForTimeout(7000);
  check("a hidden page asks nobody", questions ? `${questions} questions` : "");
  await page.evaluate(() => {
    delete document.hidden;
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await becomes(page, "it is well once it is seen again", isWell, 3);
  check("nobody else is asked", asked);
  await context.close();
}

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  if (mode === "--watch") {
    await watch(browser);
  } else {
    for (const javaScript of [true, false]) {
      for (const width of WIDTHS) {
        for (const scheme of ["light", "dark"]) {
          await look(browser, width, scheme, javaScript);
        }
      }
    }
  }
} finally {
  await browser.close();
}
process.exitCode = failures ? 1 : 0;
