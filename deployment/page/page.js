// Sliders in, score out. The ranges of the sliders come from the service, so they are defined only once.

const DELAY = 150; // milliseconds from the last move of a slider to the request
const RETRY = 3000; // milliseconds from a failed request to the next

const form = document.getElementById("sample");
let pending = new AbortController();
let timer;

const show = (id, text) => { document.getElementById(id).textContent = text; };
const readable = (name) => (name === "pH" ? name : (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " "));
const withUnit = (value, unit) => (unit === "pH" ? value : `${value} ${unit}`);

function element(tag, properties, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

function slider({ name, unit, low, median, high, step }) {
  const input = element("input", { type: "range", id: name, name, min: low, max: high, step, defaultValue: median });
  const output = element("output", { htmlFor: name, ariaLive: "off" }); // the slider announces its value itself
  const decimals = Math.max(0, Math.round(-Math.log10(step)));
  const showValue = () => {
    const value = Number(input.value).toFixed(decimals);
    output.replaceChildren(value, element("small", {}, unit === "pH" ? "" : ` ${unit}`));
    input.setAttribute("aria-valuetext", withUnit(value, unit));
  };
  input.addEventListener("input", showValue);
  form.addEventListener("reset", () => setTimeout(showValue));
  showValue();
  const label = element("label", { htmlFor: name }, readable(name));
  return element("div", { className: "slider" }, label, output, input, emptyCurve(name));
}

const svgElement = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);

function emptyCurve(name) {
  const svg = svgElement("svg");
  svg.id = `curve-${name}`;
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.append(svgElement("path"), svgElement("path"));
  svg.lastChild.setAttribute("class", "current");
  return svg;
}

function showCurves(curves) {
  const all = curves.flatMap(({ scores }) => scores);
  const [lowest, highest] = [Math.min(...all), Math.max(...all)];
  const y = (score) => 95 - (90 * (score - lowest)) / (highest - lowest || 1);
  for (const { name, values, scores } of curves) {
    const [svg, input] = [document.getElementById(`curve-${name}`), document.getElementById(name)];
    const [first, last] = [values[0], values[values.length - 1]];
    const x = (value) => (100 * (value - first)) / (last - first || 1);
    const points = values.map((value, number) => `${x(value)} ${y(scores[number])}`);
    svg.firstChild.setAttribute("d", `M ${points.join(" L ")}`);
    svg.lastChild.setAttribute("d", `M ${x(Number(input.value))} 0 V 100`);
    const [low, high] = [Math.min(...scores), Math.max(...scores)].map((score) => score.toFixed(2));
    svg.setAttribute("aria-label", `Score for different values of ${readable(name)}: ${low} to ${high}`);
  }
}

function currentSample() {
  const fields = [...new FormData(form)];
  return Object.fromEntries(fields.map(([name, value]) => [name, name === "type" ? value : Number(value)]));
}

async function send(path, body) {
  const method = body ? "POST" : "GET";
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: pending.signal });
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

function showScore({ score, low, high, quality, version, stored }) {
  show("score", score.toFixed(2));
  show("quality", `Quality ${quality} · model version ${version} · ${stored ? "stored" : "not stored"}`);
  show("interval", low === null ? "" : `90\u00a0% interval: ${low.toFixed(1)} to ${high.toFixed(1)}`);
  document.getElementById("bar").style.width = `${10 * score}%`;
  Object.assign(document.getElementById("band").style, { left: `${10 * low}%`, width: `${10 * (high - low)}%` });
}

function nearestRow({ type, quality, differs_most: { name, unit, value, requested } }) {
  const values = element("small", {}, `${withUnit(value, unit)}; your value:\u00a0${requested}`);
  const cells = [[readable(type)], [`${quality}`], [readable(name), values]];
  return element("tr", {}, ...cells.map((cell) => element("td", {}, ...cell)));
}

function showProblem(text) {
  show("problem", text);
  document.body.classList.toggle("outdated", Boolean(text));
}

async function refresh() {
  pending.abort();
  pending = new AbortController();
  try {
    const sample = currentSample();
    const paths = ["/preview", "/nearest", "/curves"];
    const [score, { nearest }, { curves }] = await Promise.all(paths.map((path) => send(path, sample)));
    showScore(score);
    showCurves(curves);
    document.getElementById("nearest").replaceChildren(...nearest.map(nearestRow));
    showProblem("");
  } catch (error) {
    retryAfter(error, refresh);
  }
}

function retryAfter(error, action) {
  if (error.name === "AbortError") return;
  const unreachable = error instanceof TypeError; // fetch throws it without a response
  const what = unreachable ? "The service is not responding" : error.message.replace(/\.$/, "");
  showProblem(`${what}. Retrying …`);
  timer = setTimeout(action, RETRY);
}

function refreshSoon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, DELAY);
}

async function start() {
  try {
    const { ranges, synthetic } = await send("/ranges");
    document.getElementById("sliders").replaceChildren(...ranges.map(slider));
    if (synthetic) show("caption", "Most similar rows of the synthetic sample (not real wines)");
  } catch (error) {
    return retryAfter(error, start);
  }
  showProblem("");
  form.addEventListener("input", refreshSoon);
  form.addEventListener("reset", refreshSoon);
  return refresh();
}

form.addEventListener("submit", (event) => event.preventDefault());
start();
