/**
 * HTTP status codes by name, their texts, and guards for their classes (RFC 9110 and the IANA registry).
 *
 * @module
 */

/** Status codes by name. */
export const STATUS_CODE = {
  Continue: 100,
  SwitchingProtocols: 101,
  Processing: 102,
  EarlyHints: 103,
  OK: 200,
  Created: 201,
  Accepted: 202,
  NonAuthoritativeInfo: 203,
  NoContent: 204,
  ResetContent: 205,
  PartialContent: 206,
  MultiStatus: 207,
  AlreadyReported: 208,
  IMUsed: 226,
  MultipleChoices: 300,
  MovedPermanently: 301,
  Found: 302,
  SeeOther: 303,
  NotModified: 304,
  UseProxy: 305,
  TemporaryRedirect: 307,
  PermanentRedirect: 308,
  BadRequest: 400,
  Unauthorized: 401,
  PaymentRequired: 402,
  Forbidden: 403,
  NotFound: 404,
  MethodNotAllowed: 405,
  NotAcceptable: 406,
  ProxyAuthRequired: 407,
  RequestTimeout: 408,
  Conflict: 409,
  Gone: 410,
  LengthRequired: 411,
  PreconditionFailed: 412,
  ContentTooLarge: 413,
  URITooLong: 414,
  UnsupportedMediaType: 415,
  RangeNotSatisfiable: 416,
  ExpectationFailed: 417,
  Teapot: 418,
  MisdirectedRequest: 421,
  UnprocessableEntity: 422,
  Locked: 423,
  FailedDependency: 424,
  TooEarly: 425,
  UpgradeRequired: 426,
  PreconditionRequired: 428,
  TooManyRequests: 429,
  RequestHeaderFieldsTooLarge: 431,
  UnavailableForLegalReasons: 451,
  InternalServerError: 500,
  NotImplemented: 501,
  BadGateway: 502,
  ServiceUnavailable: 503,
  GatewayTimeout: 504,
  HTTPVersionNotSupported: 505,
  VariantAlsoNegotiates: 506,
  InsufficientStorage: 507,
  LoopDetected: 508,
  NotExtended: 510,
  NetworkAuthenticationRequired: 511,
} as const;

/** A known status code. */
export type StatusCode = typeof STATUS_CODE[keyof typeof STATUS_CODE];

/** The text of each status code. */
export const STATUS_TEXT = {
  100: "Continue",
  101: "Switching Protocols",
  102: "Processing",
  103: "Early Hints",
  200: "OK",
  201: "Created",
  202: "Accepted",
  203: "Non Authoritative Info",
  204: "No Content",
  205: "Reset Content",
  206: "Partial Content",
  207: "Multi Status",
  208: "Already Reported",
  226: "IM Used",
  300: "Multiple Choices",
  301: "Moved Permanently",
  302: "Found",
  303: "See Other",
  304: "Not Modified",
  305: "Use Proxy",
  307: "Temporary Redirect",
  308: "Permanent Redirect",
  400: "Bad Request",
  401: "Unauthorized",
  402: "Payment Required",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  406: "Not Acceptable",
  407: "Proxy Auth Required",
  408: "Request Timeout",
  409: "Conflict",
  410: "Gone",
  411: "Length Required",
  412: "Precondition Failed",
  413: "Content Too Large",
  414: "URI Too Long",
  415: "Unsupported Media Type",
  416: "Range Not Satisfiable",
  417: "Expectation Failed",
  418: "I'm a teapot",
  421: "Misdirected Request",
  422: "Unprocessable Entity",
  423: "Locked",
  424: "Failed Dependency",
  425: "Too Early",
  426: "Upgrade Required",
  428: "Precondition Required",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  451: "Unavailable For Legal Reasons",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
  505: "HTTP Version Not Supported",
  506: "Variant Also Negotiates",
  507: "Insufficient Storage",
  508: "Loop Detected",
  510: "Not Extended",
  511: "Network Authentication Required",
} as const satisfies Record<StatusCode, string>;

/** The text of a status code. */
export type StatusText = typeof STATUS_TEXT[keyof typeof STATUS_TEXT];

type InClass<N extends number> = StatusCode extends infer C
  ? C extends StatusCode ? `${C}` extends `${N}${string}` ? C : never : never
  : never;

/** 1xx. */
export type InformationalStatus = InClass<1>;
/** 2xx. */
export type SuccessfulStatus = InClass<2>;
/** 3xx. */
export type RedirectStatus = InClass<3>;
/** 4xx. */
export type ClientErrorStatus = InClass<4>;
/** 5xx. */
export type ServerErrorStatus = InClass<5>;
/** 4xx and 5xx. */
export type ErrorStatus = ClientErrorStatus | ServerErrorStatus;

/** Whether a number is a known status code. */
export function isStatus(status: number): status is StatusCode {
  return Object.hasOwn(STATUS_TEXT, status);
}

/** Whether a number is a known 1xx status. */
export function isInformationalStatus(status: number): status is InformationalStatus {
  return isInClass(status, 1);
}

/** Whether a number is a known 2xx status. */
export function isSuccessfulStatus(status: number): status is SuccessfulStatus {
  return isInClass(status, 2);
}

/** Whether a number is a known 3xx status. */
export function isRedirectStatus(status: number): status is RedirectStatus {
  return isInClass(status, 3);
}

/** Whether a number is a known 4xx status. */
export function isClientErrorStatus(status: number): status is ClientErrorStatus {
  return isInClass(status, 4);
}

/** Whether a number is a known 5xx status. */
export function isServerErrorStatus(status: number): status is ServerErrorStatus {
  return isInClass(status, 5);
}

/** Whether a number is a known 4xx or 5xx status. */
export function isErrorStatus(status: number): status is ErrorStatus {
  return isInClass(status, 4) || isInClass(status, 5);
}

function isInClass(status: number, hundreds: number): boolean {
  return isStatus(status) && Math.floor(status / 100) === hundreds;
}
