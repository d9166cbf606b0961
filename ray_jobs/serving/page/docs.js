// The routes of openapi.json with their fields: nothing is loaded from elsewhere.

const answer = await fetch("/openapi.json");
const api = await answer.json();

function named(schema) {
  return schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
}

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  const either = schema.anyOf ?? schema.oneOf;
  if (either) return either.map(kind).filter((one) => one !== "null").join(" or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.prefixItems) return `[${schema.prefixItems.map(kind).join(", ")}]`;
  if (schema.type === "array") return `list of ${kind(schema.items ?? {})}`;
  return schema.type ?? "anything";
}

function element(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

// Words with ``code`` in them.
function prose(text) {
  const made = document.createElement("p");
  text.split("``").forEach((part, place) => made.append(place % 2 ? element("code", part) : part));
  return made;
}

function bounds(field) {
  const one = field.anyOf?.find((part) => part.type !== "null") ?? field;
  const told = [];
  if (one.minimum !== undefined && one.minimum > -1e15) told.push(`from ${one.minimum}`);
  if (one.exclusiveMinimum !== undefined && Math.abs(one.exclusiveMinimum) < 1e15) told.push(`above ${one.exclusiveMinimum}`);
  if (one.maximum !== undefined && one.maximum < 1e15) told.push(`to ${one.maximum}`);
  return told.length ? ` ${told.join(" ")}` : "";
}

// What a schema mentions by name, each once, in the order in which it comes.
function mentioned(schema, found = new Set()) {
  for (const [key, value] of Object.entries(schema ?? {})) {
    if (key === "$ref") {
      const name = value.split("/").pop();
      if (found.has(name)) continue;
      found.add(name);
      mentioned(named(schema), found);
    } else if (value && typeof value === "object") mentioned(value, found);
  }
  return found;
}

function fields(schema) {
  const table = document.createElement("table");
  for (const [name, field] of Object.entries(named(schema)?.properties ?? {})) {
    const row = table.insertRow();
    row.insertCell().append(element("code", name + (schema.required?.includes(name) ? " *" : "")));
    row.insertCell().textContent = kind(field) + bounds(field);
    row.insertCell().append(...prose(field.description ?? "").childNodes);
  }
  return table;
}

// A body: what it is, its fields, and those of what is in it.
function body(title, schema) {
  const own = named(schema);
  const parts = [element("h3", title)];
  if (own.description) parts.push(prose(own.description));
  parts.push(fields(own));
  for (const name of mentioned(own)) {
    const inner = element("div");
    inner.className = "nested";
    inner.append(element("h3", name), fields(api.components.schemas[name]));
    parts.push(inner);
  }
  return parts;
}

for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    summary.append(element("code", `${method.toUpperCase()} ${path}`), element("span", route.summary ?? ""));
    details.append(summary);
    if (route.description) details.append(prose(route.description));
    const [content] = Object.values(route.requestBody?.content ?? {});
    if (content) details.append(...body("Request (* must be there)", content.schema));
    const [given] = Object.values(route.responses?.["200"]?.content ?? {});
    if (given?.schema?.$ref) details.append(...body("Answer", given.schema));
    document.getElementById("routes").append(details);
  }
}
