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
  const label = element("label", { htmlFor: name }, readable(name));
  return element("div", { className: "slider" }, label, output, input, drawing(name));
}

const vector = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);

function drawing(name) {
  const svg = vector("svg");
  svg.id = `curve-${name}`;
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.append(vector("path"), vector("path"));
  svg.lastChild.setAttribute("class", "here");
  return svg;
}

function showCurves(curves) {
  const all = curves.flatMap(({ scores }) => scores);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const height = (score) => 95 - (90 * (score - least)) / (most - least || 1);
  for (const { name, values, scores } of curves) {
    const [svg, input] = [document.getElementById(`curve-${name}`), document.getElementById(name)];
    const [first, last] = [values[0], values[values.length - 1]];
    const across = (value) => (100 * (value - first)) / (last - first || 1);
    const points = values.map((value, number) => `${across(value)} ${height(scores[number])}`);
    svg.firstChild.setAttribute("d", `M ${points.join(" L ")}`);
    svg.lastChild.setAttribute("d", `M ${across(Number(input.value))} 0 V 100`);
    const [low, high] = [Math.min(...scores), Math.max(...scores)].map((score) => score.toFixed(2));
    svg.setAttribute("aria-label", `With another ${readable(name)} the score would be ${low} to ${high}`);
  }
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

function showScore({ score, low, high, quality, version, stored }) {
  show("score", score.toFixed(2));
  show("quality", `Quality ${quality}, by version ${version} of the model; ${stored ? "stored" : "not stored"}`);
  show("interval", low === null ? "" : `90\u00a0% interval: ${low.toFixed(1)} to ${high.toFixed(1)}`);
  document.getElementById("bar").style.width = `${10 * score}%`;
  Object.assign(document.getElementById("band").style, { left: `${10 * low}%`, width: `${10 * (high - low)}%` });
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
    const paths = ["/preview", "/nearest", "/curves"];
    const [score, { nearest }, { curves }] = await Promise.all(paths.map((path) => ask(path, asked)));
    showScore(score);
    showCurves(curves);
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
