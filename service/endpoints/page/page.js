// The page at /: a picture goes to the public API, and what came back is shown.

import { compare, draw } from "./difference.js";
import { Refusal, checkSize, send } from "./service.js";
import { asCurl, asPython } from "./snippets.js";

const BASE = new URL(".", document.baseURI).href;
const HAS_KEYS = document.documentElement.dataset.hasKeys === "true";
const MAX_BODY_BYTES = Number(document.documentElement.dataset.maxBodyBytes);
const STAGES = ["admit", "decode", "queue", "purify", "encode", "forward", "respond"];
const FLAGGED_ABOVE = 0.99;

const byId = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

function create(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** What is shown at present. `picture` is { name, file, scene?, url? }. */
const state = { picture: null, running: null, request: null, difference: null };

// Picking a picture

function pick(picture) {
  state.picture = picture;
  byId("send").disabled = false;
  for (const button of byId("scenes").querySelectorAll("button")) {
    button.ariaPressed = String(button.scene === picture.scene);
  }
  suggest(picture.scene?.questions ?? []);
  submit();
}

function pickFile(file) {
  if (file) {
    pick({ name: file.name || "picture.png", file });
  }
}

async function pickScene(scene) {
  const name = scene[chosen("kind")];
  const response = await fetch(`page/${name}`);
  pick({ name, scene, file: await response.blob(), url: new URL(`page/${name}`, BASE).href });
}

function suggest(questions) {
  const buttons = questions.map(({ question }) => {
    const button = create("button", { type: "button", textContent: question });
    button.addEventListener("click", () => {
      byId("question").value = question;
      submit();
    });
    return button;
  });
  byId("suggestions").replaceChildren(...buttons);
}

async function showScenes() {
  const scenes = await (await fetch("page/scenes.json")).json();
  const items = scenes.map((scene, number) => {
    const alt = `Scene ${number + 1}: ${scene.caption}`;
    const button = create("button", { type: "button", ariaPressed: "false", scene });
    button.append(create("img", { src: `page/${scene.attacked}`, alt, title: scene.licence, width: 128, height: 128 }));
    button.addEventListener("click", () => pickScene(scene));
    return create("li", {}, button);
  });
  byId("scenes").replaceChildren(...items);
  const levels = Math.round(scenes[0].attack.epsilon * 255);
  byId("gallery-note").textContent =
    `Attacked: no value of a pixel is more than ${levels} of 255 from the clean scene, and the embedded model is misled.`;
  byId("gallery").hidden = false;
}

// Sending it

function requestOf(picture) {
  const task = chosen("task");
  const fields = task === "vqa" ? { question: byId("question").value.trim() } : {};
  if (task === "vqa" && !fields.question) {
    throw new Refusal("There is no question", "Type one, or have the picture described.");
  }
  return { task, path: `v1/${task}`, fields, picture };
}

async function submit() {
  state.running?.abort();
  const running = new AbortController();
  state.running = running;
  byId("alert").replaceChildren();
  document.body.classList.remove("empty");
  setBusy(true, "Sent: waiting for the answer.");
  try {
    const request = requestOf(state.picture);
    checkSize(state.picture.file, MAX_BODY_BYTES);
    const answer = await send(request, byId("key").value.trim(), running.signal, tell);
    await show(request, answer, running.signal);
    finish(running, "Done.");
  } catch (error) {
    if (running.signal.aborted) {
      finish(running, "Cancelled. The service drops what nobody waits for.");
    } else {
      finish(running, "");
      alertOf(error);
    }
  }
}

function finish(running, words) {
  if (state.running === running) { // else a later request has taken over
    state.running = null;
    setBusy(false, words);
  }
}

function setBusy(isBusy, words) {
  document.body.classList.toggle("busy", isBusy);
  byId("outcome").ariaBusy = String(isBusy);
  byId("cancel").hidden = !isBusy;
  tell(words);
}

function tell(words) {
  byId("status").textContent = words;
}

function alertOf(error) {
  const again = create("button", { type: "button", textContent: "Try again" });
  again.addEventListener("click", submit);
  byId("result").hidden = true;
  byId("alert").replaceChildren(
    create("strong", { textContent: error.title ?? "This page failed" }),
    create("span", { textContent: error.message }),
    again,
  );
}

// Showing what came back

async function show(request, answer, signal) {
  const urls = { before: URL.createObjectURL(request.picture.file), after: answer.purified_image };
  const canShow = await Promise.all(["before", "after"].map((id) => load(byId(id), urls[id])));
  URL.revokeObjectURL(urls.before);
  signal.throwIfAborted();
  state.request = request;
  showPictures(...canShow);
  showAnswer(request, answer);
  showDefence(answer.defense);
  showTimes(answer.timings_ms);
  showCode();
  byId("result").hidden = false;
}

/** Whether the browser can show it: not every one knows every format. */
async function load(image, url) {
  if (!url) {
    image.removeAttribute("src");
    return false;
  }
  image.src = url;
  return image.decode().then(() => true, () => false);
}

function showPictures(hasBefore, hasAfter) {
  const [before, after] = [byId("before"), byId("after")];
  byId("compare").classList.toggle("unseen", !hasBefore);
  byId("compare").closest(".pictures").hidden = !hasAfter;
  state.difference = hasBefore && hasAfter ? compare(before, after) : null;
  byId("size").textContent = hasBefore
    ? `${after.naturalWidth} × ${after.naturalHeight}`
    : "Your browser cannot show the format that was sent.";
  byId("difference").closest("figure").hidden = !state.difference;
  showDifference();
  showSplit();
}

function showDifference() {
  const gain = 2 ** byId("gain").valueAsNumber;
  byId("magnified").textContent = `×${gain}`;
  byId("gain").ariaValueText = `${gain} times`;
  if (state.difference) {
    const { mean, largest, isScaled } = state.difference;
    const words = `${mean.toFixed(1)} of 255 levels on average, ${largest} at most`;
    draw(state.difference, gain, byId("difference"));
    byId("difference").ariaLabel = `What purification changed, magnified ${gain} times: ${words}`;
    byId("changed").textContent = words + (isScaled ? "; scaled down to compare" : "");
  }
}

function showSplit() {
  const percent = byId("split").valueAsNumber;
  byId("compare").style.setProperty("--split", `${percent}%`);
  byId("split").ariaValueText = `${percent} % as sent, ${100 - percent} % purified`;
}

function showAnswer({ task, fields, picture }, answer) {
  const text = answer.caption ?? answer.answer;
  byId("said").hidden = text === undefined;
  byId("asked").textContent = task === "vqa" ? fields.question : "The model describes it";
  byId("answer").textContent = text || "(nothing)";
  byId("bypassed").hidden = !answer.defense.bypassed;
  const known = picture.scene?.questions.find(({ question }) => question === fields.question);
  const truth = task === "vqa" ? known?.answer : picture.scene?.caption;
  byId("truth").textContent = truth === undefined ? "" : `True of this scene: ${truth}`;
}

function showDefence({ suspicion, flagged, purifier, strength, steps, noise_level: level, cached }) {
  const isKnown = suspicion !== null;
  byId("suspicion").textContent = isKnown ? suspicion.toFixed(2) : "not told";
  byId("meter").hidden = !isKnown;
  byId("meter").value = suspicion ?? 0;
  byId("meter").textContent = byId("suspicion").textContent;
  byId("flagged").hidden = !flagged;
  byId("suspicion-note").textContent = isKnown
    ? `${Math.round(100 * suspicion)} of 100 clean images looked less attacked than this one; above ${FLAGGED_ABOVE} an image is flagged.`
    : "This service discloses nothing measured, or has no detector.";
  const parts = [
    purifier ? `${purifier.name} ${purifier.version}` : "no purifier",
    ...(strength === null ? [] : [`${strength} strength`]),
    ...(steps === null ? [] : [`${steps} step${steps === 1 ? "" : "s"}`]),
    ...(level === null ? [] : [`noise level ${level}`]),
    ...(cached ? ["replayed from the cache for the same bytes"] : []),
  ];
  byId("defence").textContent = parts.join(", ");
}

function showTimes(times) {
  const known = STAGES.filter((stage) => times?.[stage] !== undefined);
  const rows = [...known, ...(times ? ["total"] : [])].map((stage) => {
    const bar = create("span", { className: "bar" });
    bar.style.width = `${(100 * times[stage]) / times.total}%`;
    return create(
      "tr",
      {},
      create("th", { scope: "row", textContent: stage }),
      create("td", {}, ...(stage === "total" ? [] : [bar])),
      create("td", { textContent: `${times[stage].toFixed(1)} ms` }),
    );
  });
  byId("times").tBodies[0].replaceChildren(...rows);
  byId("times-note").textContent = times ? "" : "This service does not tell its times.";
}

function showCode() {
  const write = chosen("language") === "curl" ? asCurl : asPython;
  byId("code").textContent = write(state.request, BASE, HAS_KEYS);
}

async function copyCode() {
  try {
    await navigator.clipboard.writeText(byId("code").textContent);
    tell("Copied.");
  } catch { // no secure context, or not allowed
    getSelection().selectAllChildren(byId("code"));
    tell("Selected: copy it with your keyboard.");
  }
}

// Wiring

function takeDrops() {
  const drop = byId("drop");
  const over = (isOver) => drop.classList.toggle("over", isOver);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? over(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    pickFile(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => pickFile(event.clipboardData.files[0]));
}

function start() {
  byId("keys").hidden = !HAS_KEYS;
  byId("docs").hidden = HAS_KEYS; // behind the key, which no link can bring
  byId("file").addEventListener("change", (event) => {
    pickFile(event.target.files[0]);
    event.target.value = ""; // the same file may be picked again
  });
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  byId("tasks").addEventListener("change", () => {
    byId("asking").hidden = chosen("task") !== "vqa";
  });
  byId("cancel").addEventListener("click", () => state.running?.abort());
  byId("split").addEventListener("input", showSplit);
  byId("gain").addEventListener("input", showDifference);
  byId("copy").addEventListener("click", copyCode);
  for (const radio of document.querySelectorAll("input[name=language]")) {
    radio.addEventListener("change", showCode);
  }
  for (const radio of document.querySelectorAll("input[name=kind]")) {
    radio.addEventListener("change", changeKind);
  }
  takeDrops();
  showScenes();
}

function changeKind() {
  for (const button of byId("scenes").querySelectorAll("button")) {
    button.firstChild.src = `page/${button.scene[chosen("kind")]}`;
  }
  if (state.picture?.scene) {
    pickScene(state.picture.scene);
  }
}

start();
