// OpenAI's client for JavaScript.
const MODEL = "gpt-5-mini";
const PARAMETERS = {
  type: "object",
  properties: { where: { type: "string" } },
  required: ["where"],
  additionalProperties: false,
};
const dataUrl = (picture) => `data:image/png;base64,${picture.toString("base64")}`;

export const rows = async ({ load, raised, assert }) => {
  const { default: OpenAI } = await load("openai");

  const connect = ({ url, key }) => new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
  const collect = async (stream) => {
    const all = [];
    for await (const event of await stream) all.push(event);
    return all;
  };
  const sentence = (error) => {
    assert.ok(error instanceof OpenAI.APIError, error);
    return error.error.message;
  };
  const errors = (c, ask) => async () => {
    const missing = await raised(() => ask(c.missing));
    assert.ok(missing instanceof OpenAI.NotFoundError, missing);
    const tooLong = await raised(() => ask(c.tooLong));
    assert.ok(tooLong instanceof OpenAI.BadRequestError, tooLong);
    const busy = await raised(() => ask(c.busy));
    assert.ok(busy instanceof OpenAI.RateLimitError, busy);
    assert.equal(missing.code, "model_not_found");
    assert.equal(tooLong.code, "context_length_exceeded");
    assert.equal(busy.code, "rate_limit_exceeded");
    assert.equal(busy.headers.get("retry-after"), "7");
    const stranger = await raised(() => ask("hi", {}, connect({ ...c, key: "sk-of-nobody" })));
    assert.ok(stranger instanceof OpenAI.AuthenticationError, stranger);
    const streamed = await raised(() => ask(c.missing, { stream: true }));
    assert.ok(streamed instanceof OpenAI.NotFoundError, streamed);
    const broken = await raised(() => collect(ask(c.breaks, { stream: true })));
    assert.ok(broken instanceof OpenAI.APIError, broken);
  };

  const chat = (c) => {
    const client = connect(c);
    const ask = (content, fields = {}, api = client) => {
      const messages = typeof content === "string" ? [{ role: "user", content }] : content;
      return api.chat.completions.create({ model: MODEL, messages, ...fields });
    };
    const user = (...pictures) => ({
      role: "user",
      content: [
        { type: "text", text: c.question },
        ...pictures.map((p) => ({ type: "image_url", image_url: { url: dataUrl(p), detail: "low" } })),
      ],
    });
    const textOf = async (stream) =>
      (await collect(stream)).map((chunk) => chunk.choices[0].delta.content ?? "").join("");
    return {
      async chat() {
        const answer = await ask([{ role: "developer", content: "Be brief." }, user()]);
        assert.equal(answer.choices[0].message.content, c.says());
        assert.equal(answer.model, MODEL);
        assert.equal(answer.choices[0].finish_reason, "stop");
        assert.equal(answer.usage.total_tokens, c.inputTokens + c.outputTokens);
      },
      async stream() {
        assert.equal(await textOf(ask([user(c.pictures[0])], { stream: true })), c.says({ pictures: 1 }));
        const fields = { stream: true, stream_options: { include_usage: true } };
        const last = (await collect(ask("hi", fields))).at(-1);
        assert.equal(last.usage.completion_tokens, c.outputTokens);
        const stream = client.chat.completions.stream({ model: MODEL, messages: [user()] });
        assert.equal(await stream.finalContent(), c.says());
      },
      async images() {
        const answer = await ask([user(...c.pictures)]);
        assert.equal(answer.choices[0].message.content, c.says({ pictures: 2 }));
      },
      async tools() {
        const seen = [];
        const look = { name: "look", parameters: PARAMETERS, parse: JSON.parse };
        look.function = ({ where }) => (seen.push(where), c.told);
        const tools = [{ type: "function", function: look }];
        const fields = { model: MODEL, messages: [user(c.pictures[0])], tools };
        for (const stream of [false, true]) {
          const runner = client.chat.completions.runTools({ ...fields, stream });
          assert.equal(await runner.finalContent(), c.says({ pictures: 1, told: c.told }));
        }
        assert.deepEqual(seen, [c.says({ pictures: 1 }), c.says({ pictures: 1 })]);
      },
      errors: errors(c, ask),
      async second_turns() {
        const question = user(c.pictures[0]);
        const first = (await ask([question])).choices[0].message;
        const messages = [question, first, { role: "user", content: "Sure?" }];
        const seen = c.says({ pictures: 1, turns: 2 });
        assert.equal((await ask(messages)).choices[0].message.content, seen);
        assert.equal(await textOf(ask(messages, { stream: true })), seen);
      },
      refusals: {
        "a picture elsewhere": () =>
          ask([{ role: "user", content: [{ type: "image_url", image_url: { url: c.remoteUrl } }] }]),
      },
      sentence,
    };
  };

  const responses = (c) => {
    const client = connect(c);
    const ask = (input, fields = {}, api = client) =>
      api.responses.create({ model: MODEL, input, ...fields });
    const user = (...pictures) => ({
      role: "user",
      content: [
        { type: "input_text", text: c.question },
        ...pictures.map((p) => ({ type: "input_image", image_url: dataUrl(p), detail: "auto" })),
      ],
    });
    return {
      async chat() {
        const answer = await ask("hi", { instructions: "Be brief." });
        assert.equal(answer.output_text, c.says());
        assert.equal(answer.status, "completed");
        assert.equal(answer.usage.total_tokens, c.inputTokens + c.outputTokens);
      },
      async stream() {
        const events = await collect(ask([user(c.pictures[0])], { stream: true }));
        const deltas = events.filter((event) => event.type === "response.output_text.delta");
        assert.equal(deltas.map((event) => event.delta).join(""), c.says({ pictures: 1 }));
        assert.equal(events.at(-1).type, "response.completed");
        const final = await client.responses.stream({ model: MODEL, input: "hi" }).finalResponse();
        assert.equal(final.output_text, c.says());
      },
      async images() {
        assert.equal((await ask([user(...c.pictures)])).output_text, c.says({ pictures: 2 }));
      },
      async tools() {
        const tools = [{ type: "function", name: "look", parameters: PARAMETERS, strict: true }];
        const question = user(c.pictures[0]);
        const first = await ask([question], { tools });
        const call = first.output.at(-1);
        assert.deepEqual(JSON.parse(call.arguments), { where: c.says({ pictures: 1 }) });
        const output = [
          { type: "input_text", text: c.told },
          { type: "input_image", image_url: dataUrl(c.pictures[1]), detail: "auto" },
        ];
        const told = { type: "function_call_output", call_id: call.call_id, output };
        const answer = await ask([question, ...first.output, told], { tools });
        assert.equal(answer.output_text, c.says({ pictures: 2, told: c.told }));
        const stream = client.responses.stream({ model: MODEL, input: [question], tools });
        const streamed = (await stream.finalResponse()).output.at(-1);
        assert.deepEqual(JSON.parse(streamed.arguments), { where: c.says({ pictures: 1 }) });
      },
      errors: errors(c, ask),
      async second_turns() {
        const question = user(c.pictures[0]);
        const first = await ask([question]);
        const input = [question, ...first.output, { role: "user", content: "Sure?" }];
        const seen = c.says({ pictures: 1, turns: 2 });
        assert.equal((await ask(input)).output_text, seen);
        const final = await client.responses.stream({ model: MODEL, input }).finalResponse();
        assert.equal(final.output_text, seen);
      },
      refusals: {
        "a picture elsewhere": () =>
          ask([{ role: "user", content: [{ type: "input_image", image_url: c.remoteUrl, detail: "auto" }] }]),
      },
      sentence,
    };
  };

  return { chat, responses };
};
