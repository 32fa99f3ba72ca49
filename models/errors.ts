/**
 * Errors of model files: what is wrong, where it stands, what was found.
 *
 * @module
 */

/** A model's file is damaged, lies about itself, or holds something Octavo cannot run. */
export class ModelFileError extends RangeError {
  override readonly name = "ModelFileError";
  /** Path of the file at fault. */
  readonly file: string;
  /** The field inside it, for example "llama.block_count" or "tensor blk.0.attn_q.weight". */
  readonly field: string;

  /**
   * @param problem What the field must be, for example "must be a power of two".
   * @param found The value found, where there is one; long values are cut.
   */
  constructor(file: string, field: string, problem: string, ...found: [] | [unknown]) {
    const tail = found.length === 0 ? "" : `, found ${shown(found[0])}`;
    super(`Cannot read ${file}: ${field} ${problem}${tail}`);
    this.file = file;
    this.field = field;
  }
}

/** A value as an error message shows it: one line, at most 80 characters. */
function shown(value: unknown): string {
  let text: string;
  if (typeof value === "bigint" || typeof value === "number") text = String(value);
  else if (ArrayBuffer.isView(value)) text = `an array of ${value.byteLength} bytes`;
  else text = JSON.stringify(value) ?? String(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
