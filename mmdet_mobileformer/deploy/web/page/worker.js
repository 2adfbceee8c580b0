// Runs the model beside the page, so that the page stays quick. Messages: {id, kind, ...} in, {id, result} or {id, error} out.

import * as ort from "./engine/ort.wasm.bundle.min.mjs";
import { inputSize, resizeToPlanes } from "./resize.js";

let session = null;
let about = null;

function checkDescription(value) {
  const good =
    value &&
    value.format === 1 &&
    Array.isArray(value.classes) &&
    value.classes.length > 0 &&
    value.resize &&
    Array.isArray(value.resize.scale) &&
    value.resize.scale.length === 2 &&
    value.input;
  if (!good) throw new Error("its description, model.json, is damaged or of another version");
  return value;
}

async function fetched(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be fetched (${response.status} ${response.statusText})`);
  return response;
}

async function load() {
  const text = await (await fetched("model.json")).text();
  let parsed = null;
  try {
    parsed = JSON.parse(text);
  } catch {
    // An unreadable description is a damaged one, said below.
  }
  about = checkDescription(parsed);
  ort.env.wasm.wasmPaths = { wasm: new URL("./engine/ort-wasm-simd-threaded.wasm", import.meta.url).href };
  // Without the server's headers there is no shared memory, hence one thread.
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const bytes = new Uint8Array(await (await fetched("model.onnx")).arrayBuffer());
  try {
    session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Error(`model.onnx is damaged or needs another version of onnxruntime-web (${brief(error)})`);
  }
  const expected = ["boxes", "scores", "labels"].every((name) => session.outputNames.includes(name));
  if (!expected || !session.inputNames.includes("images")) {
    throw new Error("model.onnx has other inputs and outputs: export it with tools/deployment/export.py");
  }
  return { about, threads };
}

async function detect(picture) {
  const start = performance.now();
  const [width, height] = inputSize(picture.width, picture.height, about);
  const planes = resizeToPlanes(picture, width, height);
  if (!about.input.normalized_inside) normalize(planes, about.input);
  const resized = performance.now();
  const images = new ort.Tensor("float32", planes, [1, 3, height, width]);
  const { boxes, scores, labels } = await session.run({ images });
  const found = [];
  for (let i = 0; i < scores.data.length; i++) {
    const [x1, y1, x2, y2] = boxes.data.subarray(4 * i, 4 * i + 4);
    const label = Number(labels.data[i]);
    found.push({
      box: [x1 * picture.width, y1 * picture.height, x2 * picture.width, y2 * picture.height],
      score: scores.data[i],
      label,
      name: about.classes[label] ?? `class ${label}`,
    });
  }
  found.sort((a, b) => b.score - a.score);
  const times = { resize: resized - start, model: performance.now() - resized, width, height };
  return { found, times };
}

function normalize(planes, { mean, std }) {
  const size = planes.length / 3;
  for (let channel = 0; channel < 3; channel++) {
    for (let i = channel * size; i < (channel + 1) * size; i++) planes[i] = (planes[i] - mean[channel]) / std[channel];
  }
}

function brief(error) {
  return String(error && error.message ? error.message : error).split("\n")[0].slice(0, 200);
}

self.onmessage = async ({ data }) => {
  try {
    const result = data.kind === "load" ? await load() : await detect(data.picture);
    self.postMessage({ id: data.id, result });
  } catch (error) {
    self.postMessage({ id: data.id, error: brief(error) });
  }
};
