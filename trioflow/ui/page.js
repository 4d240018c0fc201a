// The page of runs: follows what the server says of the list or of one run, and changes what has changed.
// Whatever comes from the store becomes text, never markup: there is no innerHTML here.
"use strict";

const AGAIN = 2000;
const TICK = 1000;
const $ = (id) => document.getElementById(id);
const view = { text: "", status: "", offset: 0, limit: 0, itemsOffset: 0, itemsLimit: 0, itemsOf: null, itemsStamp: null, latest: null, done: "", doneOf: null, doneAt: null, sure: false };
let source = null;  // the live answer
let asked = "";  // what it answers
let shown = null;  // what it said last: what to do to show it again, since ages grow without news

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Rows stay the elements that they are while their keys stay, so a selection and the focus live on.
function rows(body, entries, key, cells) {
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  let place = body.firstElementChild;
  for (const entry of entries) {
    const name = key(entry);
    let row = old.get(name);
    old.delete(name);
    if (row === undefined) {
      row = make("tr", { "data-key": name }, ...cells(entry).map(() => make("td")));
    }
    cells(entry).forEach((cell, index) => fill(row.children[index], cell));
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  for (const row of old.values()) row.remove();
}

function fill(element, cell) {
  element.className = cell.class ?? "";
  if (cell.label) element.dataset.label = cell.label;
  if (cell.href !== undefined) {
    const link = element.firstElementChild ?? element.appendChild(make("a"));
    if (link.getAttribute("href") !== cell.href) link.setAttribute("href", cell.href);
    element.style.paddingLeft = cell.depth ? `${cell.depth * 1.2}rem` : "";
    put(link, (cell.depth ? "└ " : "") + cell.text);
  } else if (cell.failed !== undefined) {
    if (!element.firstElementChild) element.replaceChildren(make("span"), make("span", { class: "failed" }), make("progress"));
    const [text, failed, bar] = element.children;
    Object.assign(bar, { max: Math.max(1, cell.of ?? 0), value: cell.value ?? 0, hidden: cell.of === undefined || cell.value >= cell.of });
    put(text, cell.text);
    put(failed, cell.failed);
  } else put(element, cell.text);
  if (cell.title) element.title = cell.title;
}

const link = (id) => `#run=${encodeURIComponent(id)}`;
const clock = (seconds) => {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? String(seconds) : date.toLocaleString();
};

function ago(seconds) {
  const age = Math.max(0, Date.now() / 1000 - seconds);
  if (!Number.isFinite(age)) return String(seconds);
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (age >= size) return `${Math.floor(age / size)} ${unit} ago`;
  }
  return `${Math.floor(age)} s ago`;
}

function span(seconds) {
  if (seconds >= 120) return `${(seconds / 60).toPrecision(3)} min`;
  return seconds >= 1 ? `${seconds.toPrecision(3)} s` : `${(seconds * 1000).toPrecision(3)} ms`;
}

function runCells(run) {
  return [
    { text: run.label, href: link(run.id), depth: run.depth },
    { text: run.status, class: `status ${run.status}` },
    { text: run.kind },
    { text: run.kind === "graph" ? run.graph : "" },
    { text: run.step && run.kind !== "parallel" ? String(run.step) : "", class: "number", label: "step" },
    itemsCell(run),
    { text: ago(run.created_at), class: "time begun", title: clock(run.created_at) },
    { text: ago(run.updated_at), class: "time", title: clock(run.updated_at) },
  ];
}

function itemsCell(run) {
  const known = { class: "number", label: "items" };
  if (run.total === null && !run.failed) return { text: run.items ? String(run.items) : "", ...known };
  const failed = run.failed ? `${run.failed} failed` : "";
  const comma = failed ? ", " : "";
  if (run.total === null) return { text: `${run.items}${comma}`, failed, ...known };
  return { text: `${run.items} of ${run.total}${comma}`, failed, value: run.items, of: run.total, ...known };
}

function showList(found) {
  document.title = "trioflow runs";
  $("partly").hidden = !found.problem;
  put($("partly"), found.problem ? `Not all runs can be read: ${found.problem}` : "");
  view.limit = found.limit;
  rows($("runs"), found.runs, (run) => run.id, runCells);
  $("nothing").hidden = found.runs.length > 0;
  const names = Object.keys(found.counts).sort();
  if (view.status && !names.includes(view.status)) names.push(view.status);
  const body = $("counts");
  const old = new Map([...body.children].map((button) => [button.dataset.status, button]));
  for (const name of names) {
    const button = old.get(name) ?? body.appendChild(make("button", { type: "button", "data-status": name, class: `status ${name}` }));
    old.delete(name);
    put(button, `${name} ${found.counts[name] ?? 0}`);
    button.setAttribute("aria-pressed", String(view.status === name));
  }
  for (const button of old.values()) button.remove();
  const last = Math.min(found.offset + found.limit, found.total);
  $("pager").hidden = found.total <= found.limit && found.offset === 0;
  $("newer").disabled = found.offset === 0;
  $("older").disabled = last >= found.total;
  put($("range"), found.total ? `${found.offset + 1} to ${last} of ${found.total}` : "");
}

function facts(found) {
  const run = found.run;
  const list = [["status", run.status, `status ${run.status}`]];
  if (found.reason) list.push(["reason", found.reason]);
  list.push(["kind", run.kind || "unknown"]);
  if (run.kind === "graph") list.push(["graph", run.graph]);
  if (run.kind !== "parallel") list.push(["step", String(run.step)]);
  if (run.items) list.push(["items", found.total === null ? String(run.items) : `${run.items} of ${found.total}`]);
  list.push(["started", `${ago(run.created_at)}, ${clock(run.created_at)}`]);
  list.push(["updated", `${ago(run.updated_at)}, ${clock(run.updated_at)}`]);
  if (run.parent) list.push(["inside", run.parent, "", link(run.parent)]);
  if (run.forked_from) list.push(["forked from", run.forked_from, "", link(run.forked_from)]);
  const shape = list.map((fact) => fact[0]).join();
  if ($("facts").dataset.shape !== shape) {
    $("facts").replaceChildren(...list.flatMap(([name]) => [make("dt", {}, name), make("dd")]));
    $("facts").dataset.shape = shape;
  }
  const values = $("facts").querySelectorAll("dd");
  list.forEach(([, text, style, href], index) => fill(values[index], { text, class: style, href }));
}

function showRun(found) {
  const run = found.run;
  document.title = `${run.label} · ${run.status}`;
  put($("name"), run.label);
  facts(found);
  $("damage").hidden = !found.problem;
  put($("damage"), found.problem ?? "");
  showPicture(found.picture, run.status);
  showWaiting(found);
  showChanges(found);
  showErrors(found);
  $("inside").hidden = !found.inside.length;
  put($("inside-states"), Object.entries(found.inside_states).map(([state, count]) => `${count} ${state}`).join(", "));
  rows($("children"), found.inside, (each) => each.id, runCells);
  more("more-inside", found.inside.length, found.inside_count, "runs");
  showData(found.data);
  // A fan-out's steps are its items, and only a graph makes attempts.
  $("steps-section").hidden = !found.step_count || run.kind === "parallel";
  $("steps-section").querySelector("table").classList.toggle("plain", run.kind !== "graph");
  $("attempts-note").hidden = run.kind !== "graph" || run.status === "completed";
  const tries = new Map(found.steps.map((step, index) => [step.step, step.iterations - (found.steps[index + 1]?.iterations ?? 0)]));
  rows($("steps"), found.steps, (step) => String(step.step), (step) => [
    { text: String(step.step), class: "number" }, { text: step.node }, { text: step.next_node },
    stood(step, run), { text: String(tries.get(step.step)), class: "number" },
    { text: span(step.seconds), class: "number" }, { text: clock(step.created_at), class: "time" },
  ]);
  more("more-steps", found.steps.length, found.step_count, "steps");
  $("items-section").hidden = !run.items && found.total === null;
  put($("items-state"), itemsState(found));
  $("items").hidden = !run.items;
  put($("items").querySelector("summary"), `${run.items} ${run.items === 1 ? "result" : "results"} saved`);
}

// How a run stood after a step says something only where it did not simply go on.
function stood(step, run) {
  if (step.status === "running" && step.step !== run.step) return { text: "" };
  return { text: step.status, class: `status ${step.status}` };
}

function more(id, shown, all, what) {
  $(id).hidden = shown >= all;
  put($(id), `The latest ${shown} of ${all} ${what}.`);
}

function itemsState(found) {
  const { items, status } = found.run;
  const { failed, unfinished } = found.failures ?? { failed: 0, unfinished: null };
  if (found.total === null) {
    return items || failed ? `${items} succeeded${failed ? `, ${failed} failed` : ""}. The total is not stored.` : "";
  }
  if (failed) {
    const left = unfinished ? `, ${unfinished} ${status === "running" ? "are running or waiting" : "are unfinished"}` : "";
    return `${items} of ${found.total} succeeded, ${failed} failed${left}.`;
  }
  const left = found.total - items;
  return left > 0 ? `${items} of ${found.total} succeeded, ${left} have no result.` : `All ${found.total} succeeded.`;
}

function showWaiting(found) {
  $("waits").hidden = !found.waits_at && found.run.status !== "paused";
  if ($("waits").hidden) return;
  put($("waits-at"), `At node ${found.waits_at || "(unknown)"}, for ${ago(found.run.updated_at).replace(" ago", "")}.`
    + (found.data ? "" : " What it asks for is shown with --show-data."));
  $("asks").hidden = !found.data || found.data.pause === null;
  put($("asks"), found.data?.pause ?? "");
}

function showChanges(found) {
  const may = found.changes;
  $("answer").hidden = !may?.answer;
  $("cancel").hidden = !may?.cancel;
  $("changes").hidden = !may;
  if (!may) return;
  if (view.doneOf !== found.run.id) Object.assign(view, { doneOf: found.run.id, done: "", sure: false });
  // What was done last is shown until the server says how it went on.
  const over = view.doneAt && (view.doneAt.note !== may.note || (found.run.status === "paused" && found.run.updated_at > view.doneAt.updated));
  put($("done"), (!over && view.done) || may.note || may.why_not);
  $("changes").hidden = !may.cancel && !$("done").textContent;
  put($("cancel"), view.sure ? "really cancel? its current holder loses it" : "cancel the run");
}

function showErrors(found) {
  const failed = found.run.status === "failed";
  const inside = found.inside_states.failed ?? 0;
  const failures = found.failures;
  $("errors").hidden = !failed && !inside && !failures;
  const said = [];
  if (failed && found.failed_at) said.push(`Failed at node ${found.failed_at}, after step ${found.run.step}.`);
  else if (failures) said.push(`${failures.failed} ${failures.failed === 1 ? "item" : "items"} failed.`);
  else if (failed && found.total > found.run.items) said.push(`${found.total - found.run.items} of ${found.total} items have no result.`);
  else if (failed) said.push(`Failed after step ${found.run.step}.`);
  if (inside) said.push(`${inside} ${inside === 1 ? "run" : "runs"} inside it failed.`);
  put($("failed-at"), said.join(" "));
  showFailures(failures, failed, found.show_data);
}

// What tells categories apart is their messages, which may be hidden: so a row belongs to a place, not to a category.
function showFailures(failures, failed, showData) {
  $("failures").hidden = !failures;
  $("failures").classList.toggle("hide-messages", !showData);
  rows($("categories"), (failures?.categories ?? []).map((each, place) => ({ ...each, place })), (each) => String(each.place), (each) => [
    { text: String(each.count), class: "number" }, { text: each.type }, { text: each.first }, { text: each.message ?? "" },
  ]);
  const note = [];
  if (failures?.other) note.push(`${failures.other} more failed with other messages.`);
  if (failures && !showData) note.push("Messages are shown with --show-data.");
  // What is known of runs inside is on their own pages.
  if (failed && !failures) note.push("The store records that a run failed, but not its error: see the log, a trace or an observer.");
  put($("failures-note"), note.join(" "));
}

function showData(data) {
  $("data").hidden = !data;
  if (data) put($("state").querySelector("pre"), data.state);
}

// The picture: boxes in a column, arrows between neighbours straight, all others as arcs beside it:
// onward ones on the right, back ones on the left.
function shape(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const WIDTH = 230, HEIGHT = 34, GAP = 38, ARC = 26, LETTER = 6.5;
// How far from the boxes an arc is at its farthest: three quarters of the way to its two control points.
const arcReach = (way) => (Math.min(8, Math.abs(way.target - way.source)) + 1) * ARC * 0.75;

function showPicture(picture, status) {
  $("picture").hidden = !picture;
  const drawn = JSON.stringify([picture, status]);
  if (!picture || $("drawing").dataset.drawn === drawn) return;
  $("drawing").dataset.drawn = drawn;
  const room = (wanted, start) => Math.max(12, ...picture.ways.filter(wanted).map((way) => start(way) + wayLabel(way).length * LETTER + 12));
  const left = room((way) => way.target <= way.source, arcReach);
  const right = Math.max(room((way) => way.target > way.source + 1, arcReach), room((way) => way.target === way.source + 1, () => -WIDTH / 2));
  const height = picture.nodes.length * (HEIGHT + GAP) - GAP + 8;
  const width = left + WIDTH + right;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "the steps of the run" });
  // The farther an arc goes, the sooner it is drawn: so no arc crosses what is said of a shorter one.
  const ways = [...picture.ways].sort((one, other) => arcReach(other) - arcReach(one));
  for (const way of ways) svg.append(drawWay(way, left));
  picture.nodes.forEach((node, index) => svg.append(drawNode(node, index, left, picture.current === index ? `here ${status}` : "")));
  $("drawing").replaceChildren(svg);
  $("mermaid").hidden = picture.mermaid === null;
  put($("mermaid").querySelector("pre"), picture.mermaid ?? "");
}

const top_ = (index) => 4 + index * (HEIGHT + GAP);

function drawNode(node, index, left, where) {
  const most = node.visits > 1 ? 24 : 29;
  const name = node.name.length > most ? `${node.name.slice(0, most - 1)}…` : node.name;
  const classes = [node.visits ? "seen" : "", node.exit ? "exit" : "", where].join(" ");
  const group = shape("g", { class: classes }, shape("title", {}, node.name));
  group.append(shape("rect", { class: "box", x: left, y: top_(index), width: WIDTH, height: HEIGHT, rx: node.entry ? HEIGHT / 2 : 5 }));
  group.append(shape("text", { x: left + 12, y: top_(index) + 22 }, name));
  if (node.visits > 1) group.append(shape("text", { class: "small", x: left + WIDTH - 8, y: top_(index) + 22, "text-anchor": "end" }, `×${node.visits}`));
  return group;
}

function wayLabel(way) {
  const name = way.label.length > 20 ? `${way.label.slice(0, 19)}…` : way.label;
  return [name, way.taken > 1 ? `×${way.taken}` : ""].filter(Boolean).join(" ");
}

function drawWay(way, left) {
  const group = shape("g", { class: `${way.taken ? "taken" : ""} ${way.error ? "error" : ""}` });
  const short = wayLabel(way);
  if (way.label) group.append(shape("title", {}, way.label));
  const text = (x, y, anchor) => shape("text", { class: "small", x, y, "text-anchor": anchor }, short);
  if (way.target === way.source + 1) {
    const x = left + WIDTH / 2, y = top_(way.source) + HEIGHT, end = top_(way.target) - 1;
    group.append(shape("path", { class: "way", d: `M${x} ${y}V${end - 6}` }), head(x, end, 0, 1), text(x + 8, (y + end) / 2 + 3, "start"));
    return group;
  }
  const back = way.target <= way.source;
  const side = back ? left : left + WIDTH, out = back ? -1 : 1;
  const far = side + out * arcReach(way) / 0.75;
  const from = top_(way.source) + HEIGHT * 0.65, to = top_(way.target) + HEIGHT * 0.35;
  group.append(shape("path", { class: "way", d: `M${side} ${from}C${far} ${from} ${far} ${to} ${side + out * 7} ${to}` }));
  group.append(head(side + out, to, -out, 0), text(side + out * (arcReach(way) + 5), (from + to) / 2 + 3, back ? "end" : "start"));
  return group;
}

function head(x, y, dx, dy) {
  const points = [[x, y], [x - 7 * dx - 4 * dy, y - 7 * dy - 4 * dx], [x - 7 * dx + 4 * dy, y - 7 * dy + 4 * dx]];
  return shape("polygon", { class: "head", points: points.map((point) => point.join()).join(" ") });
}

async function ask(what, parameters) {
  const answer = await fetch(`api/${what}?${new URLSearchParams(parameters)}`, { cache: "no-store" });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function askItems(id, run) {
  const stamp = JSON.stringify([id, view.itemsOffset, run.items, run.updated_at]);
  if (!$("items").open || !run.items || view.itemsStamp === stamp) return;
  try {
    const found = await ask("items", { id, offset: view.itemsOffset });
    rows($("keys"), found.items, (item) => item.key, (item) => [{ text: item.key }, { text: item.value ?? "" }]);
    const last = Math.min(found.offset + found.limit, found.total);
    put($("items-range"), found.total ? `${found.offset + 1} to ${last} of ${found.total}` : "");
    $("items-before").disabled = found.offset === 0;
    $("items-after").disabled = last >= found.total;
    $("items-problem").hidden = true;
    Object.assign(view, { itemsStamp: stamp, itemsLimit: found.limit });
  } catch (error) {
    $("items-problem").hidden = false;
    put($("items-problem"), error.message);
  }
}

function wanted() {
  const hash = location.hash;
  if (!hash.startsWith("#run=")) return null;
  try { return decodeURIComponent(hash.slice(5)); } catch { return hash.slice(5); }
}

function question() {
  const id = wanted();
  return id === null ? ["runs", { text: view.text, status: view.status, offset: view.offset }] : ["run", { id }];
}

// One answer at a time is open, and none for a page that nobody sees.
function follow() {
  const [what, parameters] = question();
  const url = `live/${what}?${new URLSearchParams(parameters)}`;
  if (source !== null && url === asked && source.readyState !== EventSource.CLOSED && !document.hidden) return;
  source?.close();
  source = null;
  if (document.hidden) return;
  if (url !== asked) shown = null;
  asked = url;
  const mine = source = new EventSource(url);
  const ours = (act) => (event) => { if (mine === source) act(event); };
  mine.addEventListener("found", ours((event) => show(what, JSON.parse(event.data))));
  mine.addEventListener("problem", ours((event) => say(JSON.parse(event.data).error)));
  mine.addEventListener("error", ours(() => {
    say("The page is no longer served: start `trioflow ui` again.");
    if (mine.readyState === EventSource.CLOSED) setTimeout(follow, AGAIN);
  }));
}

function show(what, found) {
  $("list").hidden = what !== "runs";
  $("one").hidden = what !== "run";
  $("problem").hidden = true;
  put($("problem"), "");
  put($("store"), found.store);
  put($("live"), "live");
  $("live").className = "";
  if (what === "runs") shown = () => showList(found);
  else {
    $("partly").hidden = true;
    view.latest = found;
    if (view.itemsOf !== found.run.id) Object.assign(view, { itemsOf: found.run.id, itemsOffset: 0, itemsStamp: null });
    shown = () => showRun(found);
    askItems(found.run.id, found.run);
  }
  shown();
}

// What was seen last stays to be seen.
function say(problem) {
  $("problem").hidden = false;
  put($("problem"), problem);
  put($("live"), "not live");
  $("live").className = "lost";
}

async function change(what, details) {
  const id = view.latest.run.id;
  const before = { note: view.latest.changes.note, updated: view.latest.run.updated_at };
  view.doneAt = null;
  try {
    const answer = await fetch(`api/${what}`, {
      method: "POST", body: JSON.stringify({ id, ...details }),
      headers: { "Content-Type": "application/json", "X-Trioflow-Page": view.latest.changes.secret },
    });
    const said = await answer.json();
    view.done = said.done ?? `Nothing was changed: ${said.error}`;
    if (said.done) view.doneAt = before;
  } catch (error) {
    view.done = `The outcome is unknown: ${error.message}`;
  }
  view.sure = false;
  if (view.latest.run.id === id) shown?.();
}

function answerPause(event) {
  event.preventDefault();
  let update = null;
  try { update = JSON.parse($("update").value); } catch { update = null; }
  if (update === null || typeof update !== "object" || Array.isArray(update)) {
    Object.assign(view, { done: "An answer is a JSON object: the values of the state by their names.", doneAt: null });
    shown?.();
    return;
  }
  change("answer", { step: view.latest.run.step, update });
}

// The first click asks whether that is meant, for as long as a person needs to read it.
function cancelRun() {
  if (view.sure) { change("cancel", {}); return; }
  view.sure = true;
  setTimeout(() => { view.sure = false; shown?.(); }, 5000);
  shown?.();
}

if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname + location.hash);
document.addEventListener("visibilitychange", follow);
window.addEventListener("hashchange", () => { $("list").hidden = $("one").hidden = true; follow(); });
setInterval(() => { if (!document.hidden) shown?.(); }, TICK);
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("text").addEventListener("input", () => { Object.assign(view, { text: $("text").value, offset: 0 }); follow(); });
$("counts").addEventListener("click", (event) => {
  const status = event.target.dataset.status;
  if (status === undefined) return;
  Object.assign(view, { status: view.status === status ? "" : status, offset: 0 });
  follow();
});
$("newer").addEventListener("click", () => { view.offset = Math.max(0, view.offset - view.limit); follow(); });
$("older").addEventListener("click", () => { view.offset += view.limit; follow(); });
const itemsAgain = () => { if (view.latest) askItems(view.latest.run.id, view.latest.run); };
$("items").addEventListener("toggle", itemsAgain);
$("items-before").addEventListener("click", () => { view.itemsOffset = Math.max(0, view.itemsOffset - view.itemsLimit); itemsAgain(); });
$("items-after").addEventListener("click", () => { view.itemsOffset += view.itemsLimit; itemsAgain(); });
$("answer").addEventListener("submit", answerPause);
$("cancel").addEventListener("click", cancelRun);
follow();
