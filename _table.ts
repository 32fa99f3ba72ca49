/**
 * Tables for a terminal.
 *
 * @module
 */

/** Rows of cells, each column as wide as its widest cell. */
export function alignColumns(rows: readonly (readonly string[])[]): string {
  const numColumns = Math.max(...rows.map(({ length }) => length));
  const widths = Array.from(
    { length: numColumns },
    (_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column]!)).join("  ").trimEnd()).join("\n");
}
