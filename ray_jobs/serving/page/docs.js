// The routes of openapi.json with their fields: nothing is loaded from elsewhere.

const answer = await fetch("/openapi.json");
const api = await answer.json();

function named(schema) {
  return schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
}

function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).filter((one) => one !== "null").join(" or ");
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

function fields(schema) {
  const table = document.createElement("table");
  for (const [name, field] of Object.entries(named(schema)?.properties ?? {})) {
    const row = table.insertRow();
    row.insertCell().append(element("code", name + (schema.required?.includes(name) ? " *" : "")));
    row.insertCell().textContent = kind(field);
    row.insertCell().textContent = field.description ?? "";
  }
  return table;
}

for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    summary.append(element("code", `${method.toUpperCase()} ${path}`));
    details.append(summary);
    if (route.description) details.append(element("p", route.description));
    const [content] = Object.values(route.requestBody?.content ?? {});
    if (content) details.append(element("p", "Request"), fields(named(content.schema)));
    const [given] = Object.values(route.responses?.["200"]?.content ?? {});
    if (given?.schema?.$ref) details.append(element("p", "Answer"), fields(named(given.schema)));
    document.getElementById("routes").append(details);
  }
}
