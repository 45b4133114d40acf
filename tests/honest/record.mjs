// Has clients in JavaScript talk to a recording model: node record.mjs CLIENT URL FOLDER_OF_node_modules
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [client, url, folder] = process.argv.slice(2);
const require = createRequire(`${folder}/x.js`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const KEY = "sk-none";
const QUESTION = "What is in this picture?";
const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGO8I6LBgA0wYRUdtBIAI8EBEbGlbrcAAAAASUVORK5CYII=";
const DATA_URL = `data:image/png;base64,${PNG}`;

const clients = {
  async openai_js() {
    const { default: OpenAI } = await load("openai");
    const api = new OpenAI({ baseURL: url, apiKey: KEY });
    const create = (body) => api.chat.completions.create({ model: "vllm", ...body });
    const image = { type: "image_url", image_url: { url: DATA_URL, detail: "auto" } };
    const ask = { role: "user", content: [{ type: "text", text: QUESTION }, image] };
    const tool = { type: "function", function: { name: "f", parameters: { type: "object", properties: {} } } };
    const first = await create({ messages: [ask] });
    const sure = { role: "user", content: "Sure?" };
    for await (const _ of await create({ messages: [ask, first.choices[0].message, sure], stream: true }));
    const called = (await create({ messages: [ask], tools: [tool] })).choices[0].message;
    const result = { role: "tool", tool_call_id: called.tool_calls[0].id, content: "A red car." };
    await create({ messages: [ask, called, result], tools: [tool], tool_choice: "none" });
  },

  async ai_sdk() {
    const ai = await load("ai");
    const { createOpenAI } = await load("@ai-sdk/openai");
    const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
    const { z } = await load("zod");
    const models = [
      createOpenAI({ baseURL: url, apiKey: KEY }).chat("openai"),
      createOpenAICompatible({ name: "own", baseURL: url, apiKey: KEY })("vllm"),
    ];
    const ask = {
      role: "user",
      content: [{ type: "text", text: QUESTION }, { type: "image", image: PNG, mediaType: "image/png" }],
    };
    const tools = {
      look: ai.tool({
        description: "Looks.",
        inputSchema: z.object({ where: z.string() }),
        execute: async () => "A red car.",
      }),
    };
    for (const model of models) {
      const first = await ai.generateText({ model, system: "Be brief.", messages: [ask], temperature: 0 });
      const again = [ask, ...first.response.messages, { role: "user", content: "Sure?" }];
      const stream = ai.streamText({ model, messages: again });
      for await (const _ of stream.textStream);
      await ai.generateText({ model, messages: [ask], tools, stopWhen: ai.stepCountIs(2) });
    }
  },

  async langchain_js() {
    const { ChatOpenAI } = await load("@langchain/openai");
    const { HumanMessage, SystemMessage, ToolMessage } = await load("@langchain/core/messages");
    const { tool } = await load("@langchain/core/tools");
    const { z } = await load("zod");
    const chat = new ChatOpenAI({ model: "openai", apiKey: KEY, configuration: { baseURL: url }, temperature: 0 });
    const ask = new HumanMessage({
      content: [{ type: "text", text: QUESTION }, { type: "image_url", image_url: { url: DATA_URL } }],
    });
    const look = tool(async () => "A red car.", { name: "look", description: "Looks.", schema: z.object({ where: z.string() }) });
    const first = await chat.invoke([new SystemMessage("Be brief."), ask]);
    for await (const _ of await chat.stream([ask, first, new HumanMessage("Sure?")]));
    const bound = chat.bindTools([look]);
    const called = await bound.invoke([ask]);
    const result = new ToolMessage({ content: "A red car.", tool_call_id: called.tool_calls[0].id });
    await bound.invoke([ask, called, result]);
    await chat.withStructuredOutput(z.object({ name: z.string() })).invoke([ask]);
  },
};

await clients[client]();
