// The public API, and its refusals in words.

const STARTING = "not_ready";
const ASK_AGAIN_MS = 1000;

/** A request that came to nothing, as a person is told: what happened, and what to do. */
export class Refusal extends Error {
  constructor(title, sentence, code) {
    super(sentence);
    this.title = title;
    this.code = code;
  }
}

const TITLES = {
  animated_image: "This picture moves",
  body_too_large: "The file is too large",
  image_flagged: "Refused: the picture looks attacked",
  image_too_large: "The picture has too many pixels",
  image_too_slow: "The picture is too large to be purified in time",
  invalid_api_key: "A key is needed",
  invalid_image: "This file is damaged",
  missing_field: "Something is missing",
  unsupported_image: "This file is not taken",
  unsupported_media_type: "This file is not taken",
};
const TITLES_OF_STATUSES = {
  403: "This key may not do that",
  429: "The queue is full",
  502: "The model gave no answer",
  503: "Not available at the moment",
  504: "It took too long",
};

function refusalOf(status, error, retryAfter) {
  const title = TITLES[error.code] ?? TITLES_OF_STATUSES[status] ?? "The service refused";
  const wait = retryAfter ? ` Try again in ${retryAfter} s.` : "";
  const words = {
    invalid_api_key: "Type a valid key of this service into the field API key, and send again.",
    overloaded: "Others are being served.",
  };
  const sentence = words[error.code] ?? error.message ?? `It answered ${status}.`;
  return new Refusal(title, sentence + wait, error.code);
}

/** Refuses a file that is sure to be too long, before it is sent. */
export function checkSize(file, maxBodyBytes) {
  const room = maxBodyBytes - 8192; // what stands around it, the question included
  if (file.size > room) {
    const [size, most] = [file.size, room].map((bytes) => (bytes / 2 ** 20).toFixed(1));
    throw new Refusal(TITLES.body_too_large, `It has ${size} MiB; this service takes ${most} MiB. Send a smaller one.`);
  }
}

function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** As `sendOnce`; a service that is still starting is waited for, and `tell` is told. */
export async function send(request, key, signal, tell) {
  try {
    return await sendOnce(request, key, signal);
  } catch (error) {
    if (error.code !== STARTING) {
      throw error;
    }
  }
  tell("The service is still starting: it loads its models.");
  do {
    await wait(ASK_AGAIN_MS, signal);
  } while (await isStarting(signal));
  tell("Sent: waiting for the answer.");
  return sendOnce(request, key, signal);
}

async function isStarting(signal) {
  const answer = await fetch("readyz", { signal }).then((response) => response.json(), () => ({}));
  signal.throwIfAborted();
  return answer.status === "warming";
}

/**
 * Sends a picture and gives the JSON of the answer.
 *
 * @param {{path: string, fields: Object<string, string>, picture: {name: string, file: Blob}}} request
 * @param {string} key Of this service; empty for none.
 * @param {AbortSignal} signal Cancels it.
 * @throws {Refusal} With what to tell. A cancelled request throws the signal's own error.
 */
async function sendOnce({ path, fields, picture }, key, signal) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    body.append(name, value);
  }
  body.append("file", picture.file, picture.name);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = { method: "POST", body, headers, signal, cache: "no-store", credentials: "omit" };
  let response;
  let answer;
  try {
    response = await fetch(path, options);
    answer = await response.json();
  } catch (error) {
    if (signal.aborted) {
      throw error;
    }
    throw new Refusal("No answer", "The service cannot be reached, or it closed the connection. Is it running?");
  }
  if (!response.ok) {
    throw refusalOf(response.status, answer.error ?? {}, response.headers.get("retry-after"));
  }
  return answer;
}
