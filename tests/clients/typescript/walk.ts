// A product's backend that uses the generated types: it remembers, asks, streams, lists, reads and deletes, and tells errors
// apart by their code. What it saw goes to stdout, as one JSON object that the test compares.
// MEMORY_URL is the service; token.ts stands in deploy/guide/tokens.md, schema.d.ts is generated.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";
import { memoryToken } from "./token.js";

type Schemas = components["schemas"];

const url = process.env.MEMORY_URL!;
const clientOf = (token: string) => createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });
const user = `maria-${process.pid}`;
const token = await memoryToken(user);
const memory = clientOf(token);
const seen: Record<string, unknown> = {};

// Remembered, and once more by the same key: the first answer again.
const heating = { doc_id: "notes/heating", text: "Grüße! The heat pump was serviced in March by Maria Lindqvist." };
const once = { header: { "Idempotency-Key": `walk-${user}` } };
for (const name of ["indexed", "repeated"]) {
  const { data, error } = await memory.POST("/api/v1/memory/index", { params: once, body: heating });
  if (error) throw new Error(error.code);
  seen[name] = "doc_id" in data ? [data.doc_id, data.chunks] : "a batch";
}

// Asked: the best passage, cited.
const asked = await memory.POST("/api/v1/memory/query", { body: { query: "When was the heat pump serviced?" } });
if (asked.error) throw new Error(asked.error.detail);
seen.found = [asked.data.results[0]?.text, asked.data.results[0]?.citation.doc_id];

// Answered while it is being written: server-sent events, each of which the contract names.
const stream = await memory.POST("/api/v1/stream", {
  body: { message: "When was the heat pump serviced?" },
  parseAs: "stream",
});
if (stream.error || !stream.data) throw new Error("no stream");
let answer = "", text = "";
const events: string[] = [];
for await (const bytes of stream.data as unknown as AsyncIterable<Uint8Array>) {
  text += new TextDecoder().decode(bytes, { stream: true });
}
for (const block of text.split("\n\n")) {
  const fields = new Map(block.split("\n").map((line) => [line.split(": ")[0], line.slice(line.indexOf(": ") + 2)]));
  const kind = fields.get("event");
  if (!kind) continue;
  if (events.at(-1) !== kind) events.push(kind);
  if (kind === "token") answer += (JSON.parse(fields.get("data")!) as Schemas["StreamToken"]).delta;
}
seen.streamed = [events, answer.includes("serviced in March")];

// Listed page by page, to the last.
for (let number = 0; number < 4; number++) {
  await memory.POST("/api/v1/memory/index", { body: { doc_id: `diary/${number}`, text: `On day ${number} the sea was calm.` } });
}
const listed: string[] = [];
let cursor: string | undefined;
do {
  const { data, error } = await memory.GET("/api/v1/memory/documents", { params: { query: { limit: 2, cursor } } });
  if (error) throw new Error(error.code);
  listed.push(...data.results.map((document) => document.doc_id));
  cursor = data.next === null ? undefined : new URL(data.next).searchParams.get("cursor")!;
} while (cursor !== undefined);
seen.listed = listed.sort();

// Read back, deleted, and then missing.
const one = { params: { path: { doc_id: "notes/heating" } } };
seen.read = (await memory.GET("/api/v1/memory/documents/{doc_id}", one)).data?.text;
seen.deleted = (await memory.DELETE("/api/v1/memory/documents/{doc_id}", one)).response.status;
const missing = await memory.GET("/api/v1/memory/documents/{doc_id}", one);
seen.missing = missing.error?.code;

// Another user has nothing of it.
const other = await clientOf(await memoryToken(`other-${user}`)).GET("/api/v1/memory/documents");
seen.other = other.data?.results.length;

// Errors are typed: a wrong token, a wrong body with its fields, too much of it.
seen.stranger = (await clientOf("rubbish").GET("/api/v1/memory/stats")).error?.code;
const wrong = await memory.POST("/api/v1/memory/query", { body: { query: "", top_k: 1000 } });
seen.wrong = [wrong.error?.code, wrong.error?.errors?.map((each) => each.field).sort()];
seen.too_many = await (async () => {
  for (let times = 0; times < 50; times++) {
    const { error, response } = await memory.POST("/api/v1/memory/query", { body: { query: "calm" } });
    if (error) return [error.code, Number(response.headers.get("Retry-After")) >= 1];
  }
  return "never";
})();

console.log(JSON.stringify(seen));
