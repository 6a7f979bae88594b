// Keeps the page new. It asks the page's own address again and puts what changed into the
// document, so that an open detail, the focus, a selection and the place stay as they are.
//
// It never lets an old answer look like a new one: when nobody answers, when the answer is the
// same again and again, or while nobody asks, the page says so and loses its colours.
"use strict";

(() => {
  const PERIOD = 5000; // between an answer and the next question
  const LIMIT = 8000; // for an answer
  const LATE = 15000; // an answer that is older is not shown as if it were of now
  const FROZEN = 30000; // a report is made anew each second, so one that stays the same is a copy

  const root = document.documentElement;
  const find = (name) => document.getElementById(name);
  const tab = document.querySelector("link[rel=icon]");
  const well = { title: document.title, icon: tab.getAttribute("href") };

  let answered = Date.now();
  let report = document.querySelector("main").dataset.time;
  let changed = answered;
  let timer;
  let question;

  async function ask() {
    clearTimeout(timer);
    question?.abort();
    if (document.hidden) {
      return;
    }
    const mine = (question = new AbortController());
    const limit = setTimeout(() => mine.abort(), LIMIT);
    let trouble = "";
    try {
      const answer = await fetch(location.pathname + location.search, {
        cache: "no-cache",
        redirect: "error",
        signal: mine.signal,
      });
      if (!answer.ok) {
        trouble = `it says ${answer.status}`;
      } else {
        trouble = take(await answer.text());
      }
    } catch {
      trouble = "it cannot be reached";
    } finally {
      clearTimeout(limit);
    }
    if (mine !== question) {
      return; // another question was asked meanwhile, or the page was hidden
    }
    if (trouble) {
      silent(trouble);
    } else {
      heard();
    }
    timer = setTimeout(ask, PERIOD);
  }

  // Puts an answer into the page; says what is wrong with it, if anything is.
  function take(text) {
    const next = new DOMParser().parseFromString(text, "text/html");
    const main = next.querySelector("main[data-time]");
    if (!main) {
      return "something else answers";
    }
    if (["style", "script"].some((part) => source(next, part) !== source(document, part))) {
      location.reload(); // a new version of freshcreds
      return "a new version answers";
    }
    if (main.dataset.time !== report) {
      report = main.dataset.time;
      changed = Date.now();
    } else if (Date.now() - changed > FROZEN) {
      return "it gives an old answer again";
    }
    const before = find("verdict").textContent;
    const focused = document.activeElement;
    for (const part of ["main", "footer", "#moment time"]) {
      renew(document.querySelector(part), next.querySelector(part));
    }
    if (focused !== document.activeElement && focused?.isConnected) {
      focused.focus({ preventScroll: true });
    }
    if (find("verdict").textContent !== before) {
      find("news").textContent = find("verdict").lastChild.textContent;
    }
    root.dataset.state = next.documentElement.dataset.state;
    well.title = next.title;
    well.icon = next.querySelector("link[rel=icon]").getAttribute("href");
    return "";
  }

  function source(of, part) {
    return of.querySelector(part)?.textContent;
  }

  // Makes `old` equal to `next` with as few changes as are needed.
  function renew(old, next) {
    if (old.isEqualNode(next)) {
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== next.nodeName) {
      old.replaceWith(document.adoptNode(next));
      return;
    }
    for (const { name } of [...old.attributes]) {
      // Which details are open is the reader's business.
      if (name !== "open" && !next.hasAttribute(name)) {
        old.removeAttribute(name);
      }
    }
    for (const { name, value } of next.attributes) {
      if (old.getAttribute(name) !== value) {
        old.setAttribute(name, value);
      }
    }
    const named = new Map([...old.children].filter((one) => one.id).map((one) => [one.id, one]));
    let here = old.firstChild;
    for (const child of [...next.childNodes]) {
      const same = child.id ? named.get(child.id) : undefined;
      if (same) {
        if (same === here) {
          here = here.nextSibling;
        } else {
          old.insertBefore(same, here);
        }
        renew(same, child);
      } else if (here && !here.id && !child.id && here.nodeName === child.nodeName) {
        const current = here;
        here = here.nextSibling;
        renew(current, child);
      } else {
        old.insertBefore(document.adoptNode(child), here);
      }
    }
    while (here) {
      const rest = here.nextSibling;
      here.remove();
      here = rest;
    }
  }

  function heard() {
    answered = Date.now();
    root.classList.add("live");
    root.classList.remove("stale");
    find("pace").textContent = "as of";
    find("silence").textContent = "";
    show(well.title, well.icon);
  }

  function silent(trouble) {
    const since = `${report.slice(11, 19)} UTC`;
    const words = `No answer since ${since}: ${trouble}. What is below was so then, and may not be so now.`;
    old("no answer since");
    if (find("silence").textContent !== words) {
      find("silence").textContent = words;
    }
    show(`? no answer since ${since} – freshcreds`, tab.dataset.silent);
  }

  function old(pace) {
    root.classList.add("stale");
    root.classList.remove("live");
    find("pace").textContent = pace;
  }

  function show(title, icon) {
    document.title = title;
    if (tab.getAttribute("href") !== icon) {
      tab.setAttribute("href", icon);
    }
  }

  // Nobody looks, so nobody asks; but a tab's title and icon are seen all the same.
  function turned() {
    clearTimeout(timer);
    if (document.hidden) {
      question?.abort();
      question = undefined;
      show("paused – freshcreds", tab.dataset.silent);
      old("was so at");
    } else {
      ask();
    }
  }

  // A machine that slept, or a question that hangs: the timers above do not tell.
  setInterval(() => {
    if (!document.hidden && Date.now() - answered > LATE) {
      silent("it does not answer in time");
    }
  }, 1000);

  document.addEventListener("visibilitychange", turned);
  addEventListener("pageshow", (event) => {
    if (event.persisted) {
      old("was so at");
      ask();
    }
  });
  addEventListener("online", ask);
  // What is shown may have come from the browser's memory.
  turned();
})();
