// The page: it keeps all slots by id, and draws what has changed once a frame at most.

const MAX_ROWS = 200; // decided slots in the list; more than anybody reads, few enough to draw
const KEPT = 3000; // decided slots that the page remembers
const STEPS = ["queue", "audio", "image", "video", "clip", "encode", "store"];
const WORDS = { complete: "complete", missed: "missed", "dead-letter": "dead letter" };

const slots = new Map();
let clock = { at: Date.now(), now: Date.now(), speed: 1 }; // ours, what is shown then, and its pace
let paused = false;
let wanted = ""; // channel
let chosen = "";
let dirty = true;
const rows = new Map(); // id to its list item
const fresh = []; // ids that were decided since the last frame

const asked = new URLSearchParams(location.search);
const replayed = asked.has("from");

const $ = (id) => document.getElementById(id);
const now = () => clock.now + clock.speed * (Date.now() - clock.at);
const isDecided = (slot) => slot.state in WORDS;
const isShown = (slot) => !wanted || (slot.channel ?? "").includes(wanted);
const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
const clockTime = (ms) => new Date(ms).toLocaleTimeString();
const nameOf = (slot) => (slot.slot_id ? `${slot.channel}/${slot.slot_id}` : slot.id);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// --- what comes in ---------------------------------------------------------------------------

function take({ now: serverNow, speed = 1, slots: changed }) {
  clock = { at: Date.now(), now: serverNow, speed };
  for (const slot of changed) {
    const before = slots.get(slot.id);
    slots.delete(slot.id); // so that the order is that of the last change
    slots.set(slot.id, slot);
    if (isDecided(slot) && !(before && isDecided(before))) fresh.push(slot.id);
    if (slot.id === chosen && !(before && isDecided(before))) showDetail();
  }
  forget();
  dirty = true;
}

function forget() {
  let surplus = slots.size - KEPT;
  for (const [id, slot] of slots) {
    if (surplus-- <= 0) break;
    if (isDecided(slot) && id !== chosen) slots.delete(id);
  }
}

function connect() {
  const source = new EventSource(`/events${location.search}`);
  let first = true;
  source.onopen = () => { first = true; say(replayed ? "replay" : "live"); };
  source.onerror = () => say("connection lost, trying again");
  source.addEventListener("refused", (event) => { source.close(); say(event.data); });
  source.addEventListener("slots", (event) => {
    if (first) { slots.clear(); rows.clear(); fresh.length = 0; $("decided").replaceChildren(); first = false; }
    take(JSON.parse(event.data));
  });
}

function say(words) {
  $("connection").textContent = words;
  $("connection").className = { live: "complete", replay: "missed" }[words] ?? "dead-letter";
}

// --- now -------------------------------------------------------------------------------------

function drawWorkers(making) {
  const list = $("workers");
  const last = new Map();
  for (const slot of slots.values()) if (slot.worker) last.set(slot.worker, slot);
  for (const slot of making) last.set(slot.worker, slot);
  const names = [...last.keys()].sort();
  $("no-workers").hidden = names.length > 0;
  while (list.children.length > names.length) list.lastChild.remove();
  names.forEach((name, place) => {
    let card = list.children[place];
    if (!card) {
      card = element("li", undefined, "worker");
      const lane = element("div", undefined, "lane");
      lane.append(element("i", undefined, "ghost"), element("i", undefined, "done"), element("i", undefined, "deadline"));
      card.append(element("b"), element("p", "", "faint"), lane);
      list.append(card);
    }
    const slot = last.get(name);
    const [title, words, lane] = card.children;
    setText(title, name);
    const works = slot.state === "making";
    lane.hidden = !works;
    if (!works) { setText(words, `waits; last: ${nameOf(slot)} ${WORDS[slot.state] ?? slot.state}`); return; }
    const stages = Object.entries(slot.stages ?? {});
    const [stage] = stages.reduce((latest, each) => (each[1] >= latest[1] ? each : latest), ["", 0]);
    const began = Math.min(...stages.map(([, at]) => at));
    const left = slot.deadline - now();
    const finish = slot.predicted_finish;
    const late = finish && finish > slot.deadline ? ", too late by the prediction" : "";
    const rung = slot.rung && slot.rung !== "full" ? ` on rung ${slot.rung}` : "";
    setText(words, `${nameOf(slot)}: ${stage}${rung}; deadline ${left >= 0 ? `in ${seconds(left)}` : `was ${seconds(-left)} ago`}${late}`);
    const end = Math.max(slot.deadline, finish ?? 0, now());
    const part = (moment) => `${Math.max(0, Math.min(100, (100 * (moment - began)) / (end - began)))}%`;
    lane.children[0].style.width = finish ? part(finish) : "0";
    lane.children[1].style.width = part(now());
    lane.children[2].style.left = `calc(${part(slot.deadline)} - 3px)`;
  });
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// --- the queue -------------------------------------------------------------------------------

// A canvas does not understand light-dark(); a style that was computed has settled it.
function coloursNow() {
  const probe = $("probe");
  return Object.fromEntries(["line", "faint", "bad", "ghost", "work"].map((name) => {
    probe.style.color = `var(--${name})`;
    return [name, getComputedStyle(probe).color];
  }));
}

function drawQueue(waiting) {
  const canvas = $("queue");
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const colours = coloursNow();
  waiting.sort((one, other) => one.deadline - other.deadline);
  const present = now();
  const far = Math.max(60_000, ...waiting.slice(-1).map((slot) => slot.deadline - present));
  const below = height - 18;
  const x = (ms) => (width * Math.max(0, ms)) / (1.05 * far);
  pen.font = "12px system-ui, sans-serif";
  const step = [5, 10, 30, 60, 300, 600, 3600].find((each) => (far / 1000) / each <= 8) ?? 7200;
  for (let at = 0; at <= far / 1000; at += step) {
    pen.fillStyle = colours.line;
    pen.fillRect(x(1000 * at), 0, 1, below);
    pen.fillStyle = colours.faint;
    const label = `${at} s`;
    pen.fillText(label, Math.min(x(1000 * at) + 3, width - pen.measureText(label).width), height - 4);
  }
  const row = below / Math.max(12, waiting.length);
  waiting.forEach((slot, place) => {
    const left = slot.deadline - present;
    const needed = 1000 * (slot.predicted_s ?? 0);
    pen.fillStyle = left < needed ? colours.bad : colours.ghost;
    pen.fillRect(0, place * row, Math.max(2, x(left)), Math.max(1, row - (row > 3 ? 1 : 0)));
    if (needed) {
      pen.fillStyle = colours.work;
      pen.fillRect(x(left - needed), place * row, Math.max(1, x(left) - x(left - needed)), Math.max(1, row - (row > 3 ? 1 : 0)));
    }
  });
  const soonest = waiting[0];
  setText($("queue-words"), waiting.length
    ? `${waiting.length} ${waiting.length === 1 ? "slot waits" : "slots wait"}; the next deadline, of ${nameOf(soonest)}, is ${seconds(soonest.deadline - present)} away. Dark: the time that a slot needs at the latest.`
    : "No slot waits.");
}

// --- what was decided ------------------------------------------------------------------------

function drawDecided() {
  const list = $("decided");
  const added = fresh.splice(0).slice(-MAX_ROWS);
  const batch = document.createDocumentFragment();
  for (const id of added) {
    const slot = slots.get(id);
    if (!slot || !isShown(slot) || rows.has(id)) continue;
    const item = element("li");
    const button = element("button");
    button.type = "button";
    button.dataset.slot = id;
    const slack = slot.slack_ms === undefined ? "" : slot.slack_ms >= 0 ? `${seconds(slot.slack_ms)} early` : `${seconds(-slot.slack_ms)} late`;
    button.append(element("b", WORDS[slot.state], slot.state), element("span", `${nameOf(slot)} ${slot.detail ?? ""}`), element("span", slack, "faint"));
    item.append(button);
    rows.set(id, item);
    batch.prepend(item);
  }
  list.prepend(batch);
  while (list.children.length > MAX_ROWS) {
    rows.delete(list.lastChild.firstChild.dataset.slot);
    list.lastChild.remove();
  }
}

function redrawDecided() {
  rows.clear();
  $("decided").replaceChildren();
  fresh.length = 0;
  for (const slot of slots.values()) if (isDecided(slot)) fresh.push(slot.id);
  dirty = true;
}

function draw() {
  if (dirty && !paused) {
    drawDecided();
    dirty = false;
  }
  if (!paused) {
    const shown = [...slots.values()].filter(isShown);
    const making = shown.filter((slot) => slot.state === "making");
    const waiting = shown.filter((slot) => slot.state === "waiting" && slot.deadline > now() - 60_000);
    const complete = shown.filter((slot) => slot.state === "complete").length;
    const missed = shown.filter((slot) => slot.state === "missed").length;
    if (replayed) setText($("replay").firstElementChild, `Replay, ${clockTime(now())} at ${clock.speed}×`);
    setText($("counts"), `${making.length} in the making, ${waiting.length} waiting; lately ${complete} complete, ${missed} missed.`);
    drawWorkers(making);
    drawQueue(waiting);
  }
}

// --- one slot --------------------------------------------------------------------------------

function choose(id, focus = true) {
  chosen = id;
  const hash = id ? `#${encodeURIComponent(id)}` : "";
  if (location.hash !== hash) history.replaceState(null, "", location.pathname + location.search + hash);
  showDetail();
  if (id && focus) $("detail-title").focus();
}

function showDetail() {
  const slot = slots.get(chosen);
  $("detail").hidden = !chosen;
  if (!chosen) return;
  const body = $("detail-body");
  body.replaceChildren();
  if (!slot) {
    setText($("detail-title"), chosen);
    body.append(element("p", "This slot is not known, or no longer.", "faint"));
    return;
  }
  setText($("detail-title"), `${nameOf(slot)}: ${WORDS[slot.state] ?? slot.state}`);
  if (slot.artifact) {
    const video = element("video");
    video.controls = true;
    video.preload = "metadata";
    video.src = `/video/${slot.id}`;
    video.setAttribute("aria-label", `Video of ${nameOf(slot)}`);
    body.append(video);
    if (slot.artifact.captions_uri) body.append(captions(slot, video), phonemes(slot, video));
  }
  if (slot.detail) body.append(element("p", `${slot.cancelled ? "cancelled" : slot.reason}: ${slot.detail}`, slot.state));
  if (slot.reason === "predicted" && !slot.cancelled) body.append(plan(slot));
  if (slot.breakdown) body.append(chart(slot));
  const facts = {
    prompt: slot.prompt, script: slot.script, worker: slot.worker,
    "handed over by": slot.handed_over_by, seed: slot.seed, trace: slot.trace_id, tick: slot.id,
    slack: slot.slack_ms === undefined ? undefined : seconds(slot.slack_ms),
    predicted: slot.predicted_s === undefined ? undefined : `${slot.predicted_s.toFixed(1)} s`,
    planned: slot.planned_start && `to begin at ${clockTime(slot.planned_start)}`,
    "began on rung": slot.rung && `${slot.rung}${slot.rung_reason ? `: ${slot.rung_reason}` : ""}`,
    quality: slot.quality && `${slot.quality.rung}: ${slot.quality.frames_computed} of ${slot.quality.frames_total} frames, ${slot.quality.steps} steps`,
    "self-check": slot.verification && `${slot.verification.self_check_passed ? "passed" : "failed"}, ${slot.verification.ensemble_score.toFixed(3)} (base ${slot.verification.score_clip_b.toFixed(3)}, large ${slot.verification.score_clip_l.toFixed(3)})`,
    ...onAir(slot),
    video: slot.artifact && `${slot.artifact.duration_s.toFixed(1)} s, ${slot.artifact.width}×${slot.artifact.height}, ${slot.artifact.fps} frames a second, ${(slot.artifact.bytes / 1000).toFixed(0)} kB`,
  };
  const list = element("dl");
  for (const [name, value] of Object.entries(facts)) if (value) list.append(element("dt", name), element("dd", value));
  body.append(list);
  if (slot.breakdown) {
    const link = element("a", "Download its steps for Perfetto");
    link.href = `/trace/${slot.id}`;
    body.append(link);
  }
}

// What a broadcaster asks about a finished slot, and about one that was missed.
function onAir({ artifact, provenance, models, slate_uri }) {
  const { loudness, captions_uri, watermark_id } = artifact ?? {};
  const level = (value, unit) => (value === null ? `no ${unit}, as it is silent` : `${value.toFixed(1)} ${unit}`);
  return {
    loudness: loudness && `${level(loudness.integrated_lufs, "LUFS")}, true peak ${level(loudness.true_peak_dbtp, "dBTP")}`,
    captions: artifact && (captions_uri ?? "none"),
    credentials: artifact && (provenance?.manifest_sha256 ? `signed; manifest ${provenance.manifest_sha256}` : "not signed"),
    watermark: artifact && (watermark_id ?? "none"),
    recipe: provenance?.recipe_sha256,
    models: models && Object.entries(models).map(([name, revision]) => `${name} ${revision}`).join(", "),
    slate: slate_uri,
  };
}

// The captions as a list that goes along with the video: each line leads to its moment.
function captions(slot, video) {
  const list = element("ol", undefined, "cues");
  list.setAttribute("aria-label", "Captions");
  const track = element("track");
  track.kind = "captions";
  track.label = "Captions";
  track.default = true;
  track.src = `/captions/${slot.id}`;
  track.addEventListener("load", () => {
    const lines = [...track.track.cues].map((cue) => {
      const item = element("li");
      const button = element("button", cue.getCueAsHTML().textContent.replaceAll("\n", " "));
      button.type = "button";
      button.addEventListener("click", () => { video.currentTime = cue.startTime + 0.01; });
      item.append(button);
      list.append(item);
      return [cue, button];
    });
    const mark = () => {
      for (const [cue, button] of lines) {
        const spoken = cue.startTime <= video.currentTime && video.currentTime < cue.endTime;
        button.setAttribute("aria-current", String(spoken));
      }
    };
    track.track.addEventListener("cuechange", mark);
    for (const moved of ["timeupdate", "seeked"]) video.addEventListener(moved, mark);
    mark();
  });
  video.append(track);
  return list;
}

// The sounds of the second around the frame that is seen, the one that is heard marked. The captions
// hold them in a comment: "start end symbol" a line, in milliseconds.
function phonemes(slot, video) {
  const line = element("p", undefined, "phonemes");
  line.setAttribute("aria-hidden", "true"); // read aloud, single sounds only disturb the captions
  let sounds = [];
  const show = () => {
    const at = 1000 * video.currentTime;
    const near = sounds.filter(({ start, end }) => end > at - 500 && start < at + 500);
    line.replaceChildren(...near.map(({ start, end, symbol }) => element(start <= at && at < end ? "b" : "span", symbol)));
  };
  const follow = () => {
    show();
    if (!video.paused && line.isConnected) requestAnimationFrame(follow);
  };
  video.addEventListener("play", follow);
  for (const moved of ["timeupdate", "seeked"]) video.addEventListener(moved, show);
  fetch(`/captions/${slot.id}`).then((answer) => (answer.ok ? answer.text() : "")).then((text) => {
    const [, comment = ""] = text.split("NOTE phonemes\n");
    sounds = [...comment.matchAll(/^(\d+) (\d+) (\S+)$/gm)].map(([, start, end, symbol]) => ({ start: Number(start), end: Number(end), symbol }));
    show();
  }).catch(() => {}); // the connection is lost; the captions say nothing then either
  return line;
}

// Why a slot was given up: what its worker had to do before it, at that moment.
function plan(slot) {
  const part = element("div", undefined, "plan");
  part.append(element("h3", "The plan at that moment"));
  const tell = (found) => {
    if (!found.told) {
      part.append(element("p", "No worker told what was ahead; see kafka.topics.progress.", "faint"));
      return;
    }
    const span = (value) => (value === null ? "a time not yet known" : `${value.toFixed(1)} s`);
    const count = found.ahead.length + found.more;
    const before = count
      ? `Before it came ${count} ${count === 1 ? "slot" : "slots"} with ${span(found.ahead_s)} of work:`
      : "Nothing came before it.";
    part.append(element("p", `${span(found.left_s)} were left, and this slot needs ${span(found.needs_s)}. ${before}`));
    const list = element("ol");
    for (const each of found.ahead) {
      const item = element("li");
      const link = element("a", each.name);
      link.href = `#${encodeURIComponent(each.id)}`;
      item.append(link, each.making ? `: was being made, ${span(each.needs_s)} more` : `: waited, ${span(each.needs_s)}`);
      list.append(item);
    }
    if (count) part.append(list);
    if (found.more) part.append(element("p", `and ${found.more} more`, "faint"));
  };
  fetch(`/plan/${slot.id}`)
    .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(answer.statusText))))
    .then(tell)
    .catch(() => part.append(element("p", "What was ahead is not known any more.", "faint")));
  return part;
}

function chart(slot) {
  const took = (name) => slot.breakdown[`${name}_ms`] ?? 0;
  const total = Math.max(1, slot.breakdown.total_ms);
  const side = Math.max(took("audio"), took("image")); // these two run in parallel
  const steps = element("div", undefined, "steps");
  let at = 0;
  for (const name of STEPS) {
    if (slot.breakdown[`${name}_ms`] === undefined) continue;
    const lane = element("div", undefined, "lane");
    const bar = element("i");
    bar.style.left = `${(100 * at) / total}%`;
    bar.style.width = `${(100 * took(name)) / total}%`;
    lane.append(bar);
    steps.append(element("span", name), lane, element("span", seconds(took(name))));
    if (name === "image" || (name === "audio" && slot.breakdown.image_ms === undefined)) at += side;
    else if (name !== "audio") at += took(name);
  }
  return steps;
}

// --- controls --------------------------------------------------------------------------------

$("decided").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) choose(button.dataset.slot);
});
$("close").addEventListener("click", () => {
  const row = rows.get(chosen);
  choose("");
  (row?.firstChild ?? $("channel")).focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen) $("close").click();
});
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("channel").addEventListener("input", (event) => { wanted = event.target.value.trim(); redrawDecided(); });
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  setText($("pause"), paused ? "Resume" : "Pause");
});
const local = (ms) => new Date(ms - 60_000 * new Date(ms).getTimezoneOffset()).toISOString().slice(0, 19);
$("from").value = local((replayed && Date.parse(asked.get("from"))) || Date.now() - 600_000);
$("speed").value = asked.get("speed") ?? "10";
$("replay").open = replayed;
$("live").hidden = !replayed;
$("replay-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const from = new Date($("from").value).toISOString();
  location.assign(`/?${new URLSearchParams({ from, speed: $("speed").value })}`);
});
window.addEventListener("hashchange", () => choose(decodeURIComponent(location.hash.slice(1)), false));

choose(decodeURIComponent(location.hash.slice(1)), false);
connect();
setInterval(() => requestAnimationFrame(draw), 100);
