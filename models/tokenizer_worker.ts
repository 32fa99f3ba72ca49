/**
 * The Worker of {@linkcode BackgroundTokenizer}: opens a model's tokenizer, then encodes texts one after another.
 *
 * @module
 */

import type { EncodeMessage, TokenizerMessage, TokenizerPlace } from "./background_tokenizer.ts";
import { openModel } from "./open_model.ts";
import type { Tokenizer } from "./types.ts";

declare const self: DedicatedWorkerGlobalScope;
interface DedicatedWorkerGlobalScope {
  onmessage: ((event: MessageEvent) => void) | null;
  postMessage(message: TokenizerMessage, transfer?: Transferable[]): void;
}

self.onmessage = async ({ data }: MessageEvent<TokenizerPlace>) => {
  try {
    const { tokenizer } = await openModel(data.source, { loadFormat: data.loadFormat });
    self.onmessage = ({ data }: MessageEvent<EncodeMessage>) => encode(tokenizer, data);
    self.postMessage({ type: "ready" });
  } catch (error) {
    self.postMessage({ type: "failed", message: error instanceof Error ? error.message : String(error) });
  }
};

function encode(tokenizer: Tokenizer, { text, options }: EncodeMessage): void {
  let ids: Int32Array<ArrayBuffer>;
  try {
    ids = Int32Array.from(tokenizer.encode(text, options));
  } catch {
    return self.postMessage({ type: "refused" });
  }
  self.postMessage({ type: "encoded", ids }, [ids.buffer]);
}
