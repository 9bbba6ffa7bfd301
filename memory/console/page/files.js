// From a dropped file to documents, as POST /memory/index takes them. Throws what is wrong with a file as a sentence.

const TEXT_MAX_BYTES = 1_000_000;
const FILE_MAX_BYTES = 20_000_000;
const RECORDS_MAX = 5_000;
const MEMBERS = ["doc_id", "text", "source", "thread_id", "sequence", "speaker", "metadata", "created_at", "expires_at"];

export async function documentsOf(file) {
  const kind = file.name.toLowerCase().split(".").pop();
  if (!["txt", "md", "json", "csv"].includes(kind)) throw new Error("Only txt, md, json and csv are taken.");
  const isText = kind === "txt" || kind === "md";
  if (file.size > (isText ? TEXT_MAX_BYTES : FILE_MAX_BYTES)) throw new Error("The file is too large; split it.");
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error("The file is not UTF-8 text.");
  }
  if (!text.trim()) throw new Error("The file is empty.");
  if (isText) return [{ doc_id: file.name, text, source: "file" }];
  const records = kind === "json" ? recordsOfJson(text) : recordsOfCsv(text);
  if (!records.length) throw new Error("There is no record with a text in it.");
  if (records.length > RECORDS_MAX) throw new Error(`More than ${RECORDS_MAX.toLocaleString()} records; split the file.`);
  return records.map((record, number) => draftOf(record, file.name, number + 1));
}

// A list of records, one record, or JSON Lines, as an export is.
function recordsOfJson(text) {
  try {
    const parsed = JSON.parse(text);
    return (Array.isArray(parsed) ? parsed : parsed.documents || [parsed]).map((record) => (typeof record === "string" ? { text: record } : record));
  } catch {
    try {
      return text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
    } catch {
      throw new Error("The file is neither JSON nor JSON Lines.");
    }
  }
}

// RFC 4180, with names in the first line; one of them is `text`.
function recordsOfCsv(text) {
  const rows = [[""]];
  let isQuoted = false;
  for (let i = 0; i < text.length; i += 1) {
    const row = rows.at(-1);
    const character = text[i];
    if (isQuoted) {
      if (character !== '"') row[row.length - 1] += character;
      else if (text[i + 1] === '"') {
        row[row.length - 1] += '"';
        i += 1;
      } else isQuoted = false;
    } else if (character === '"' && row.at(-1) === "") isQuoted = true;
    else if (character === ",") row.push("");
    else if (character === "\n") rows.push([""]);
    else if (character !== "\r") row[row.length - 1] += character;
  }
  const [names, ...lines] = rows.filter((row) => row.some((cell) => cell));
  if (!names?.includes("text")) throw new Error("The first line must name the columns, and one of them “text”.");
  return lines.map((line) => Object.fromEntries(names.map((name, i) => [name, line[i] ?? ""])));
}

function draftOf(record, file, number) {
  if (typeof record?.text !== "string" || !record.text.trim()) throw new Error(`Record ${number} has no text.`);
  const draft = Object.fromEntries(MEMBERS.filter((name) => record[name] !== undefined && record[name] !== "").map((name) => [name, record[name]]));
  if (typeof draft.sequence === "string") draft.sequence = Number(draft.sequence);
  if (typeof draft.metadata === "string") delete draft.metadata;
  return { doc_id: `${file}/${number}`, source: "file", ...draft };
}
