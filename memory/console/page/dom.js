// Elements are made here, and only here: everything that comes from the API becomes a text node, never markup.

export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [property, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (property.startsWith("on")) element.addEventListener(property.slice(2), value);
    else if (property === "class") element.className = value;
    else if (property in element && property !== "list") element[property] = value;
    else element.setAttribute(property, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Text of a person, in whatever direction it is written.
export const said = (text, properties = {}, name = "span") => el(name, { dir: "auto", ...properties }, String(text));

export function show(place, ...children) {
  place.replaceChildren(...children.flat().filter(Boolean));
  return place;
}

let fading;
export function announce(message) {
  const status = document.getElementById("status");
  status.textContent = message;
  clearTimeout(fading);
  fading = setTimeout(() => (status.textContent = ""), 6000);
}

export function problem(error) {
  const fields = (error.errors || []).map((each) => `${each.field}: ${each.detail}`);
  const words = fields.length ? fields.join(" ") : error.message;
  return el("p", { class: "wrong", role: "alert" }, error.wait ? `${words} Try again in ${error.wait} s.` : words);
}

// Runs `work` while `button` cannot be pressed; what goes wrong is shown in `place`.
export async function busy(button, place, work) {
  button.disabled = true;
  try {
    return await work();
  } catch (error) {
    place.append(problem(error));
    return undefined;
  } finally {
    button.disabled = false;
  }
}

export const moment = (time) =>
  el("time", { datetime: time, title: time }, new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }));

export const count = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;
