// The server's API: one function for JSON, one for a stream. What goes wrong is an Error with a sentence for people.

const KEY = "setok-api-key"; // of this tab only

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function refuse(response) {
  let message = `the server answered with ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch { /* no JSON: the status has to do */ }
  const error = new Error(message);
  error.status = response.status;
  throw error;
}

export async function get(path) {
  const response = await fetch(path, { headers: headers() });
  return response.ok ? response.json() : refuse(response);
}

export async function post(path, body, signal) {
  const response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  return response.ok ? response.json() : refuse(response);
}

// Pictures changed: a form, as OpenAI's route wants it.
export async function postForm(path, form, signal) {
  const { authorization } = headers();
  const response = await fetch(path, { method: "POST", headers: authorization ? { authorization } : {}, body: form, signal });
  return response.ok ? response.json() : refuse(response);
}

// A chat, chunk by chunk: calls `tell` with every delta.
export async function chat(body, tell, signal) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify({ ...body, stream: true }), signal,
  });
  if (!response.ok) await refuse(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const text = line.replace(/^data: /, "");
      if (text === "[DONE]") continue; // and the stream ends
      const chunk = JSON.parse(text);
      if (chunk.error) throw new Error(chunk.error.message);
      for (const choice of chunk.choices) tell(choice.delta);
    }
  }
}
