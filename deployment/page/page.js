// Sliders in, score out. What a slider may hold comes from the service: no range stands here a second time.

const PAUSE = 150; // milliseconds from the last move of a slider to the question
const AGAIN = 3000; // and from a question that nobody answered to the next

const form = document.getElementById("wine");
let question = new AbortController();
let timer;

const show = (id, text) => { document.getElementById(id).textContent = text; };
const readable = (name) => (name === "pH" ? name : (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " "));
const withUnit = (value, unit) => (unit === "pH" ? value : `${value} ${unit}`);

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function slider({ name, unit, low, median, high, step }) {
  const input = element("input", { type: "range", id: name, name, min: low, max: high, step, defaultValue: median });
  const output = element("output", { htmlFor: name, ariaLive: "off" }); // the slider itself tells its value
  const decimals = Math.max(0, Math.round(-Math.log10(step)));
  const tell = () => {
    const value = Number(input.value).toFixed(decimals);
    output.replaceChildren(value, element("small", {}, unit === "pH" ? "" : ` ${unit}`));
    input.setAttribute("aria-valuetext", withUnit(value, unit));
  };
  input.addEventListener("input", tell);
  form.addEventListener("reset", () => setTimeout(tell));
  tell();
  return element("div", { className: "slider" }, element("label", { htmlFor: name }, readable(name)), output, input);
}

function wine() {
  const fields = [...new FormData(form)];
  return Object.fromEntries(fields.map(([name, value]) => [name, name === "type" ? value : Number(value)]));
}

async function ask(path, body) {
  const method = body ? "POST" : "GET";
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: question.signal });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

function showScore({ score, quality, version, stored }) {
  show("score", score.toFixed(2));
  show("quality", `Quality ${quality}, by version ${version} of the model; ${stored ? "stored" : "not stored"}`);
  document.getElementById("bar").style.width = `${10 * score}%`;
}

function nearestRow({ type, quality, differs_most: { name, unit, value, asked } }) {
  const yours = element("small", {}, `${withUnit(value, unit)}; yours\u00a0${asked}`);
  const cells = [[readable(type)], [`${quality}`], [readable(name), yours]];
  return element("tr", {}, ...cells.map((cell) => element("td", {}, ...cell)));
}

function showTrouble(text) {
  show("trouble", text);
  document.body.classList.toggle("away", Boolean(text));
}

async function refresh() {
  question.abort();
  question = new AbortController();
  try {
    const asked = wine();
    const [score, { nearest }] = await Promise.all([ask("/preview", asked), ask("/nearest", asked)]);
    showScore(score);
    document.getElementById("nearest").replaceChildren(...nearest.map(nearestRow));
    showTrouble("");
  } catch (error) {
    failed(error, refresh);
  }
}

function failed(error, again) {
  if (error.name === "AbortError") return;
  const away = error instanceof TypeError; // what fetch throws where nobody answers
  const what = away ? "The service does not answer" : error.message.replace(/\.$/, "");
  showTrouble(`${what}. This page tries again by itself.`);
  timer = setTimeout(again, AGAIN);
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, PAUSE);
}

async function begin() {
  try {
    const { ranges, made_up: madeUp } = await ask("/wines/ranges");
    document.getElementById("sliders").replaceChildren(...ranges.map(slider));
    if (madeUp) show("caption", "The nearest wines of the sample, which is made up and not real wine");
  } catch (error) {
    return failed(error, begin);
  }
  showTrouble("");
  form.addEventListener("input", soon);
  form.addEventListener("reset", soon);
  return refresh();
}

form.addEventListener("submit", (event) => event.preventDefault());
begin();
