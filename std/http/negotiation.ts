/**
 * What a client prefers, from its `Accept`, `Accept-Encoding` and `Accept-Language` headers (RFC 9110, 12.5).
 *
 * @module
 */

type HasHeaders = Pick<Request, "headers">;

interface Preference {
  readonly value: string;
  /** Quality, 0..1; 0 = not acceptable. */
  readonly q: number;
  readonly index: number;
}

/** Media types that the client accepts, most preferred first. */
export function accepts(request: HasHeaders): string[];
/** The one of `types` that the client prefers, or undefined when it accepts none. */
export function accepts(request: HasHeaders, ...types: string[]): string | undefined;
export function accepts(request: HasHeaders, ...types: string[]): string | string[] | undefined {
  return choose(request.headers.get("accept"), types, mediaTypeRank, "*/*");
}

/** Encodings that the client accepts, most preferred first. */
export function acceptsEncodings(request: HasHeaders): string[];
/** The one of `encodings` that the client prefers, or undefined when it accepts none. */
export function acceptsEncodings(request: HasHeaders, ...encodings: string[]): string | undefined;
export function acceptsEncodings(request: HasHeaders, ...encodings: string[]): string | string[] | undefined {
  const header = request.headers.get("accept-encoding");
  // "identity" is acceptable, least of all, unless the header excludes it.
  const excluded = header !== null && /(?:^|,)\s*(?:identity|\*)\s*(?:;|,|$)/i.test(header);
  return choose(header !== null && !excluded ? `${header},identity;q=0.001` : header, encodings, tokenRank, "*");
}

/** Languages that the client accepts, most preferred first. */
export function acceptsLanguages(request: HasHeaders): string[];
/** The one of `languages` that the client prefers, or undefined when it accepts none. */
export function acceptsLanguages(request: HasHeaders, ...languages: string[]): string | undefined;
export function acceptsLanguages(request: HasHeaders, ...languages: string[]): string | string[] | undefined {
  return choose(request.headers.get("accept-language"), languages, languageRank, "*");
}

/** How exactly a header's value names an offer; 0 = not at all. */
type Rank = (value: string, offer: string) => number;

function choose(header: string | null, offers: string[], rank: Rank, any: string): string | string[] | undefined {
  if (offers.length === 0) return header === null ? [any] : parse(header).map(({ value }) => value);
  if (header === null) return offers[0];
  const preferences = parse(header, { keepRefused: true });
  let best: string | undefined;
  let bestQ = 0;
  let bestIndex = Infinity;
  for (const offer of offers) {
    const match = closest(preferences, offer, rank);
    if (match === undefined || match.q === 0) continue;
    if (match.q > bestQ || (match.q === bestQ && match.index < bestIndex)) {
      [best, bestQ, bestIndex] = [offer, match.q, match.index];
    }
  }
  return best;
}

/** The preference that names the offer most exactly decides over it. */
function closest(preferences: Preference[], offer: string, rank: Rank): Preference | undefined {
  let best: Preference | undefined;
  let bestRank = 0;
  for (const preference of preferences) {
    const found = rank(preference.value.toLowerCase(), offer.toLowerCase());
    if (found > bestRank) [best, bestRank] = [preference, found];
  }
  return best;
}

function parse(header: string, options: { keepRefused?: boolean } = {}): Preference[] {
  const preferences = header.split(",").map((part, index): Preference => {
    const [value = "", ...parameters] = part.split(";").map((text) => text.trim());
    const q = parameters.find((text) => /^q=/i.test(text));
    const quality = q === undefined ? 1 : Number(q.slice(2));
    const others = parameters.filter((text) => text !== q).map((text) => `;${text}`).join("");
    return { value: value + others, q: quality >= 0 && quality <= 1 ? quality : 0, index };
  });
  return preferences.filter(({ value, q }) => value !== "" && (q > 0 || options.keepRefused))
    .sort((a, b) => b.q - a.q || a.index - b.index);
}

function mediaTypeRank(value: string, offer: string): number {
  if (value === offer) return 4;
  const bare = value.split(";")[0]!;
  if (bare === "*/*") return 1;
  if (bare.endsWith("/*")) return offer.startsWith(bare.slice(0, -1)) ? 2 : 0;
  return value === bare && bare === offer.split(";")[0] ? 3 : 0;
}

function tokenRank(value: string, offer: string): number {
  return value === offer ? 2 : value === "*" ? 1 : 0;
}

function languageRank(value: string, offer: string): number {
  if (value === offer) return 4;
  if (offer.startsWith(`${value}-`)) return 3;
  if (value.startsWith(`${offer}-`)) return 2;
  return value === "*" ? 1 : 0;
}
