// Server-sent events out of a response's body.

/**
 * Yield `{data}` for each event and `{comment}` for each comment, which tells what a silent stream waits for.
 * An event that the end cuts off is dropped.
 */
export async function* events(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) yield parsed(block);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const lines = block.split("\n");
  const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
  return data.length ? { data: data.join("\n") } : { comment: block.replace(/^:\s*/, "") };
}
