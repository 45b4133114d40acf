// Plays a client's script, as play.py does: node play.mjs SCRIPT CASE ENVIRONMENT
//
// A script exports `rows`: by its name, a function that takes a case and returns the scenarios.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const SCENARIOS = ["chat", "stream", "images", "tools", "errors", "second_turns"];
const [script, given, environment] = process.argv.slice(2);
const require = createRequire(pathToFileURL(resolve(environment, "x.js")));

const { files, row: only = "", ...rest } = JSON.parse(given);
const testCase = {
  is_guarded: true,
  gateway: "",
  question: "What is in this picture?",
  told: "a red car",
  missing: "mishap missing",
  tooLong: "mishap too-long",
  busy: "mishap busy",
  breaks: "mishap breaks",
  inputTokens: 11,
  outputTokens: 7,
  remoteUrl: "https://pictures.example/a.png",
  pictures: files.map((file) => readFileSync(file)),
  says: ({ pictures = 0, turns = 1, told = "" } = {}) =>
    `${pictures} pictures in ${turns} turns` + (told ? `; told ${told}` : ""),
  ...rest,
};

// The packages of the environment, which are not beside the script.
const load = (name) => import(pathToFileURL(require.resolve(name)));
// The error of a kind that a function raises.
const raised = async (ask) => {
  try {
    await ask();
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: "nothing was thrown" });
};

// Where a script failed, and of what.
const accountOf = (error) => {
  const places = `${error.stack}`.split("\n").filter((line) => line.includes("scripts"));
  return [...places.map((line) => line.trim()), `${error.name}: ${error.message}`.slice(0, 600)].join("\n");
};

const attempt = async (scenario) => {
  try {
    await scenario();
    return {};
  } catch (error) {
    return { wrong: accountOf(error) };
  }
};

const refusal = async (ask, sentence) => {
  const error = await raised(ask).catch(() => null);
  if (error === null) return { wrong: "it was not refused" };
  try {
    return { sentence: sentence(error) };
  } catch (wrong) {
    return { wrong: accountOf(wrong) };
  }
};

const playRow = async (make) => {
  const scenarios = {};
  for (const name of SCENARIOS) {
    const scenario = make(testCase)[name];
    scenarios[name] = typeof scenario === "string" ? { not: scenario } : await attempt(scenario);
  }
  const refused = {};
  const { refusals = {}, sentence } = make(testCase);
  for (const [what, ask] of testCase.is_guarded ? Object.entries(refusals) : [])
    refused[what] = await refusal(ask, sentence);
  return { scenarios, refused };
};

const { rows } = await import(pathToFileURL(resolve(script)));
const outcomes = {};
for (const [name, make] of Object.entries(await rows({ load, raised, assert })))
  if (only === "" || only === name) outcomes[name] = await playRow(make);
console.log(JSON.stringify(outcomes));
// Connections that are kept alive would keep the process, too.
process.exit(0);
