// The request that the page sent, as a program would send it.

const inShell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const inPython = (text) => JSON.stringify(text); // whatever JSON escapes, Python reads alike

/**
 * @param {{path: string, fields: Object<string, string>, picture: {name: string, url?: string}}}
 *   request Path below the service's address, fields beside the picture; its url, where the
 *   service has it.
 * @param {string} base The service's address, with a slash at its end.
 * @param {boolean} hasKey Whether a key goes with it: from the environment, never from the page.
 */
export function asCurl({ path, fields, picture }, base, hasKey) {
  const lines = [
    `curl -s ${inShell(base + path)}`,
    ...(hasKey ? [`-H "Authorization: Bearer $CODEFEND_KEY"`] : []),
    ...Object.entries(fields).map(([name, value]) => `--form-string ${inShell(`${name}=${value}`)}`),
    `-F ${inShell(`file=@"${picture.name.replaceAll(/["\\]/g, "\\$&")}"`)}`,
  ];
  const fetching = picture.url ? `curl -s -o ${inShell(picture.name)} ${inShell(picture.url)}\n` : "";
  return fetching + lines.join(" \\\n  ");
}

/** As `asCurl`, for Python with httpx. */
export function asPython({ path, fields, picture }, base, hasKey) {
  const data = Object.entries(fields).map(([name, value]) => `${inPython(name)}: ${inPython(value)}`);
  return [
    ...(hasKey ? ["import os"] : []),
    "from pathlib import Path",
    "",
    "import httpx",
    "",
    ...(picture.url
      ? [`image = httpx.get(${inPython(picture.url)}).content`]
      : [`image = Path(${inPython(picture.name)}).read_bytes()`]),
    "response = httpx.post(",
    `    ${inPython(base + path)},`,
    ...(hasKey ? [`    headers={"Authorization": f"Bearer {os.environ['CODEFEND_KEY']}"},`] : []),
    ...(data.length ? [`    data={${data.join(", ")}},`] : []),
    `    files={"file": image},`,
    "    timeout=60,",
    ")",
    "print(response.raise_for_status().json())",
  ].filter((line) => picture.url === undefined || line !== "from pathlib import Path").join("\n");
}
