// The page: picture or camera in, boxes out. The model runs in worker.js.

import { colourOf, draw } from "./drawing.js";

const element = (id) => document.getElementById(id);
const [file, camera, threshold, canvas, video, stage] = ["file", "camera", "threshold", "canvas", "video", "stage"].map(element);

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let count = 0;
let threads = 1;
let shown = null; // {picture, found, times}: what is on the canvas
let stream = null; // the camera's, while it runs
let latest = 0; // number of the picture asked for last: results of earlier ones are dropped

worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error === undefined) resolve(data.result);
  else reject(new Error(data.error));
};
worker.onerror = (event) => {
  event.preventDefault();
  fail(`The model cannot be loaded: ${event.message || "its program does not start in this browser"}.`);
};

function ask(kind, more = {}, transfer = []) {
  return new Promise((resolve, reject) => {
    count += 1;
    waiting.set(count, { resolve, reject });
    worker.postMessage({ id: count, kind, ...more }, transfer);
  });
}

function say(text) {
  element("status").textContent = text;
}

function fail(text) {
  const error = element("error");
  error.textContent = text;
  error.hidden = false;
  say("");
}

function clearError() {
  element("error").hidden = true;
  element("error").textContent = "";
}

function toCanvas(source, width, height) {
  const copy = new OffscreenCanvas(width, height);
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  return { picture: copy, pixels: context.getImageData(0, 0, width, height) };
}

async function detect(source, width, height) {
  const { picture, pixels } = toCanvas(source, width, height);
  const plain = { data: pixels.data, width, height };
  const { found, times } = await ask("detect", { picture: plain }, [pixels.data.buffer]);
  return { picture, found, times };
}

function refresh(announce = true) {
  const lowest = Number(threshold.value);
  element("threshold-value").textContent = lowest.toFixed(2);
  if (!shown) return;
  const { picture, found, times } = shown;
  canvas.hidden = false;
  element("hint").hidden = true;
  stage.classList.add("filled");
  const kept = found.filter(({ score }) => score >= lowest);
  draw(canvas, picture, kept);
  const text = summary(kept);
  canvas.setAttribute("aria-label", `The picture with boxes: ${text}`);
  element("results").hidden = false;
  if (announce && element("summary").textContent !== text) element("summary").textContent = text;
  element("found").replaceChildren(
    ...kept.map(({ label, name, score, box }) => {
      const item = document.createElement("li");
      item.textContent = `${name} ${score.toFixed(2)}`;
      item.style.setProperty("--swatch", colourOf(label));
      item.dataset.box = box.map((value) => value.toFixed(3)).join(" ");
      item.dataset.score = score.toFixed(6);
      item.title = `x ${box[0].toFixed(0)} to ${box[2].toFixed(0)}, y ${box[1].toFixed(0)} to ${box[3].toFixed(0)}`;
      return item;
    }),
  );
  const rate = stream ? `, ${(1000 / (times.resize + times.model)).toFixed(1)} pictures per second` : "";
  element("times").textContent =
    `Model: ${times.model.toFixed(0)} ms; resizing to ${times.width} × ${times.height}: ${times.resize.toFixed(0)} ms` +
    `${rate}; ${threads} ${threads === 1 ? "thread" : "threads"}`;
}

function summary(kept) {
  if (!kept.length) return "Nothing with this score.";
  const counts = new Map();
  for (const { name } of kept) counts.set(name, (counts.get(name) ?? 0) + 1);
  const parts = [...counts].map(([name, number]) => `${number} × ${name}`);
  return `${kept.length} ${kept.length === 1 ? "object" : "objects"}: ${parts.join(", ")}.`;
}

async function showFile(chosen) {
  stopCamera();
  clearError();
  latest += 1;
  const mine = latest;
  let bitmap = null;
  try {
    // Upright, and in the file's own numbers, as OpenCV reads them.
    bitmap = await createImageBitmap(chosen, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    fail(`“${chosen.name}” is no picture that this browser can read, or is damaged: choose a JPEG, PNG or WebP file.`);
    return;
  }
  say(`Looking at ${chosen.name} …`);
  try {
    const result = await detect(bitmap, bitmap.width, bitmap.height);
    if (mine !== latest) return;
    shown = result;
    say(`${chosen.name}, ${bitmap.width} × ${bitmap.height} pixels`);
    refresh();
  } catch (error) {
    if (mine === latest) fail(error.message);
  } finally {
    bitmap.close();
  }
}

async function startCamera() {
  clearError();
  if (!navigator.mediaDevices) {
    fail("Browsers give the camera only to pages of this very machine (localhost) and to https.");
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    const reason = error.name === "NotAllowedError" ? "it was not allowed" : "none was found or it is in use";
    fail(`The camera cannot be used: ${reason}.`);
    return;
  }
  camera.textContent = "Stop the camera";
  camera.setAttribute("aria-pressed", "true");
  video.srcObject = stream;
  await video.play();
  say("The camera is on.");
  latest += 1;
  const mine = latest;
  while (stream && mine === latest) {
    try {
      const result = await detect(video, video.videoWidth, video.videoHeight);
      if (mine !== latest || !stream) return;
      shown = result;
      refresh(false);
    } catch (error) {
      stopCamera();
      fail(error.message);
    }
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  if (!stream) return;
  stream.getTracks().forEach((track) => track.stop());
  stream = null;
  latest += 1;
  video.srcObject = null;
  camera.textContent = "Use the camera";
  camera.setAttribute("aria-pressed", "false");
  say("The camera is off.");
  refresh();
}

file.addEventListener("change", () => {
  const [chosen] = file.files;
  file.value = ""; // so that the same file can be chosen again
  if (chosen) showFile(chosen);
});
camera.addEventListener("click", () => (stream ? stopCamera() : startCamera()));
threshold.addEventListener("input", () => refresh());
new ResizeObserver(() => refresh(false)).observe(stage);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    stage.classList.toggle("dropping", kind === "dragover" && !file.disabled);
    if (kind === "drop" && !file.disabled && event.dataTransfer.files.length) showFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const [chosen] = event.clipboardData.files;
  if (chosen && !file.disabled) showFile(chosen);
});

try {
  const loaded = await ask("load");
  threads = loaded.threads;
  const { about } = loaded;
  threshold.value = about.score_threshold;
  element("about").textContent =
    `${about.config}: ${about.classes.length} classes, ${(about.bytes / 1e6).toFixed(1)} MB. ` +
    "Your pictures stay on this device: the model runs here.";
  for (const control of [file, camera, threshold]) control.disabled = false;
  say("Ready.");
  refresh();
} catch (error) {
  fail(`The model cannot be loaded: ${error.message}.`);
}
