/**
 * Running other programs from the scripts.
 *
 * @module
 */

/** A prerequisite is missing; the message is one sentence with the command that installs it. */
export class PrerequisiteError extends Error {
  override readonly name = "PrerequisiteError";
}

/** Whether a command is there and runs. */
export async function has(command: string): Promise<boolean> {
  return await firstLine(command, ["--version"]) !== null;
}

/** First line a command prints, or null when it is missing or fails. */
export async function firstLine(command: string, args: string[]): Promise<string | null> {
  try {
    const output = await new Deno.Command(command, { args, stderr: "null" }).output();
    return output.success ? new TextDecoder().decode(output.stdout).split("\n")[0] ?? "" : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Runs a command quietly. @throws {Error} It failed; the message holds all it printed. */
export async function runQuietly(command: string, args: string[]): Promise<void> {
  const output = await new Deno.Command(command, { args, stdout: "piped", stderr: "piped" }).output();
  if (output.success) return;
  const text = new TextDecoder();
  throw new Error(
    `${text.decode(output.stdout)}${text.decode(output.stderr)}\nCannot build: "${command}" ended with code ` +
      `${output.code}; what it said stands above`,
  );
}

/** A file URL's path. */
export function toPath(url: URL): string {
  return decodeURIComponent(url.pathname);
}
