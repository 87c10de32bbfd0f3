// The page of `xvit serve`: it connects the parts, and shows errors as sentences.

import { getJson, token } from "./api.js";
import { Camera } from "./camera.js";
import { byId, sentence, show } from "./dom.js";
import { connectSources, showLimits, showSamples, sizeProblem } from "./source.js";
import { VideoPage } from "./video.js";
import { Work } from "./work.js";

const work = new Work();
const page = new VideoPage(work, showError);
const camera = new Camera(showError);
let service = null; // the answer of /v1/models

function showError(error) {
  if (error.status === 401) {
    askForToken();
    return;
  }
  byId("alert-text").textContent = sentence(error.message);
  show(byId("alert"));
}

function hideError() {
  show(byId("alert"), false);
  byId("alert-text").textContent = "";
}

function askForToken() {
  show(byId("token-form"));
  byId("token").focus();
}

async function open(video, name) {
  hideError();
  if (!service && (await start()) !== 200) return;
  const problem = sizeProblem(video, service.limits);
  if (problem) showError(new Error(problem));
  else await page.open(video, name);
}

function currentModel() {
  return service.models.find(({ name }) => name === byId("model").value);
}

async function chooseModel() {
  hideError();
  await Promise.all([page.setModel(currentModel()), camera.setModel(currentModel())]);
}

/** Ask the service what it has, and fill the page. */
async function start() {
  try {
    service = await getJson("/v1/models");
  } catch (error) {
    showError(error);
    return error.status;
  }
  show(byId("token-form"), false);
  byId("version").textContent = `xvit ${service.version}`;
  byId("model").replaceChildren(...service.models.map(({ name, default: first }) => new Option(name, name, first, first)));
  showLimits(service.limits);
  await chooseModel();
  await showSamples(open).catch(showError);
  return 200;
}

async function submitToken(event) {
  event.preventDefault();
  hideError();
  token.set(byId("token").value.trim());
  if ((await start()) === 401) showError(new Error("The server does not accept this token: check it and try again."));
  else byId("token").value = "";
}

function selectTab(name) {
  for (const other of ["video", "camera"]) {
    const chosen = other === name;
    byId(`tab-${other}`).setAttribute("aria-selected", String(chosen));
    byId(`tab-${other}`).tabIndex = chosen ? 0 : -1;
    show(byId(`panel-${other}`), chosen);
  }
  if (name === "video") camera.stop();
  else byId("player").pause();
}

function connectTabs() {
  for (const name of ["video", "camera"]) {
    const other = name === "video" ? "camera" : "video";
    byId(`tab-${name}`).addEventListener("click", () => selectTab(name));
    byId(`tab-${name}`).addEventListener("keydown", ({ key }) => {
      if (key !== "ArrowLeft" && key !== "ArrowRight") return;
      selectTab(other);
      byId(`tab-${other}`).focus();
    });
  }
}

connectTabs();
connectSources(open, showError);
byId("alert-close").addEventListener("click", hideError);
byId("token-form").addEventListener("submit", submitToken);
byId("model").addEventListener("change", chooseModel);
start();
