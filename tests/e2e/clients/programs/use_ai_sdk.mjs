// The Vercel AI SDK with three providers: schemas, tools, streams. All checks run; the program fails if one of them does.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, isStepCount, streamText, tool } from "ai";
import assert from "node:assert/strict";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";

const { REAL_URL, SCRIPTED_URL, MODEL, SCRIPTED_MODEL } = process.env;
const QUESTION = "What is the weather in Lima?";
const ANSWER = "It is 20 degrees in Lima.";
const Weather = z.object({ city: z.enum(["Lima", "Oslo"]), degrees: z.number().int().min(-50).max(50) });

const providers = {
  "openai-compatible": (url) =>
    createOpenAICompatible({ name: "pagoda", baseURL: `${url}/v1`, supportsStructuredOutputs: true }),
  openai: (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }),
  ollama: (url) => createOllama({ baseURL: `${url}/api` }),
  anthropic: (url) => createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" }),
};

const tools = {
  get_weather: tool({
    description: "Return the weather of a city.",
    inputSchema: z.object({ city: z.enum(["Lima", "Oslo"]) }),
    execute: async ({ city }) => `20 degrees in ${city}`,
  }),
};

const checks = {};
for (const [name, provider] of Object.entries(providers)) {
  const real = { model: provider(REAL_URL)(MODEL), temperature: 0, maxOutputTokens: 100, maxRetries: 0 };
  const scripted = {
    model: provider(SCRIPTED_URL)(SCRIPTED_MODEL),
    prompt: QUESTION,
    tools,
    stopWhen: isStepCount(3),
    maxRetries: 0,
  };
  checks[`${name}: generateObject`] = async () => {
    const { object } = await generateObject({ ...real, schema: Weather, prompt: QUESTION });
    Weather.parse(object);
  };
  if (name !== "ollama") {
    checks[`${name}: a required tool`] = async () => {
      const { get_weather } = tools;
      const asked = { get_weather: { ...get_weather, execute: undefined } };
      const { toolCalls } = await generateText({ ...real, prompt: QUESTION, tools: asked, toolChoice: "required" });
      assert.equal(toolCalls[0].toolName, "get_weather");
      assert.ok(["Lima", "Oslo"].includes(toolCalls[0].input.city), JSON.stringify(toolCalls));
    };
  }
  checks[`${name}: an agent with a tool`] = async () => {
    assert.equal((await generateText(scripted)).text, ANSWER);
  };
  checks[`${name}: a streamed agent with a tool`] = async () => {
    const errors = [];
    const { textStream } = streamText({ ...scripted, onError: ({ error }) => errors.push(error) });
    let text = "";
    for await (const piece of textStream) text += piece;
    assert.deepEqual(errors, []);
    assert.equal(text, ANSWER);
  };
}

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`passed ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}\n`, error);
  }
}
process.exit(failed ? 1 : 0);
