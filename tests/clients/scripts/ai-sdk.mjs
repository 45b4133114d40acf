// Vercel's AI SDK with its three providers; `openai(NAME)` speaks Responses.
export const rows = async ({ load, raised, assert }) => {
  const ai = await load("ai");
  const { createOpenAI } = await load("@ai-sdk/openai");
  const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
  const { createAnthropic } = await load("@ai-sdk/anthropic");
  const { z } = await load("zod");

  const rowOf = (connect, name) => (c) => {
    const model = connect(c);
    const ask = (fields) => ai.generateText({ model: model(name), maxRetries: 0, ...fields });
    const stream = (fields) =>
      ai.streamText({ model: model(name), maxRetries: 0, onError: () => {}, ...fields });
    const image = (picture) => ({ type: "file", data: picture, mediaType: "image/png" });
    const user = (...pictures) => ({
      role: "user",
      content: [{ type: "text", text: c.question }, ...pictures.map(image)],
    });
    const fail = async (fields) => {
      const error = await raised(() => ask(fields));
      assert.ok(ai.APICallError.isInstance(error), error);
      return error;
    };

    return {
      async chat() {
        const answer = await ask({ instructions: "Be brief.", prompt: "hi" });
        assert.equal(answer.text, c.says());
        assert.equal(answer.finishReason, "stop");
        assert.equal(answer.usage.inputTokens, c.inputTokens);
        assert.equal(answer.usage.outputTokens, c.outputTokens);
      },
      async stream() {
        const answer = stream({ messages: [user(c.pictures[0])] });
        const pieces = [];
        for await (const piece of answer.textStream) pieces.push(piece);
        assert.equal(pieces.join(""), c.says({ pictures: 1 }));
        assert.ok(pieces.length > 1);
        assert.equal(await answer.finishReason, "stop");
      },
      async images() {
        const answer = await ask({ messages: [user(...c.pictures)] });
        assert.equal(answer.text, c.says({ pictures: 2 }));
        const schema = z.object({ name: z.string(), count: z.number() });
        const output = ai.Output.object({ schema });
        const object = await ask({ messages: [user(c.pictures[0])], output });
        assert.deepEqual(object.output, { name: c.says({ pictures: 1 }), count: 1 });
      },
      async tools() {
        const seen = [];
        const look = ai.tool({
          description: "Looks somewhere.",
          inputSchema: z.object({ where: z.string() }),
          execute: async ({ where }) => (seen.push(where), c.told),
        });
        const fields = { messages: [user(c.pictures[0])], tools: { look }, stopWhen: ai.isStepCount(3) };
        const expected = c.says({ pictures: 1, told: c.told });
        assert.equal((await ask(fields)).text, expected);
        assert.equal(await stream(fields).text, expected);
        assert.deepEqual(seen, [c.says({ pictures: 1 }), c.says({ pictures: 1 })]);
      },
      async errors() {
        assert.equal((await fail({ prompt: c.missing })).statusCode, 404);
        assert.equal((await fail({ prompt: c.tooLong })).statusCode, 400);
        const refused = await fail({ prompt: c.busy });
        assert.equal(refused.statusCode, 429);
        assert.ok(refused.isRetryable);
        assert.equal(refused.responseHeaders["retry-after"], "7");
        const stranger = connect({ ...c, key: "sk-of-nobody" })(name);
        assert.equal((await fail({ model: stranger, prompt: "hi" })).statusCode, 401);
        const parts = [];
        for await (const part of stream({ prompt: c.breaks }).stream) parts.push(part);
        assert.ok(parts.some((part) => part.type === "error"), JSON.stringify(parts));
      },
      async second_turns() {
        const question = user(c.pictures[0]);
        const first = await ask({ messages: [question] });
        const messages = [question, ...first.responseMessages, { role: "user", content: "Sure?" }];
        const seen = c.says({ pictures: 1, turns: 2 });
        assert.equal((await ask({ messages })).text, seen);
        assert.equal(await stream({ messages }).text, seen);
      },
      refusals: {
        // Pictures elsewhere are fetched by the SDK itself, for models that fetch none.
        "a file": () => {
          const data = Buffer.from("%PDF-");
          return ask({ messages: [{ role: "user", content: [{ type: "file", data, mediaType: "application/pdf" }] }] });
        },
      },
      sentence: (error) => {
        assert.ok(ai.APICallError.isInstance(error), error);
        return error.data.error.message;
      },
    };
  };

  const openai = ({ url, key }) => createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
  const own = ({ url, key }) => createOpenAICompatible({
    name: "own",
    baseURL: `${url}/v1`,
    apiKey: key,
    supportsStructuredOutputs: true,
  });
  return {
    responses: rowOf((c) => openai(c), "gpt-5-mini"),
    chat: rowOf((c) => openai(c).chat, "gpt-5-mini"),
    "chat, compatible": rowOf((c) => own(c), "llava"),
    messages: rowOf(({ url, key }) => createAnthropic({ baseURL: `${url}/v1`, apiKey: key }), "claude-sonnet-5-5"),
  };
};
