import { createHmac } from 'node:crypto';

const base64url = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/**
 * Mints a join token: an HS256 JWT (RFC 7519) with a `video` grant.
 *
 * @param {{key: string, secret: string}} credentials of the mesh
 * @param {{room: string, identity: string, name?: string, grants?: object, validForS?: number, claims?: object}} options
 *   `grants` override the video grant, `claims` any other claim; a negative `validForS` gives an expired token.
 */
export function mintToken(credentials, { room, identity, name, grants = {}, validForS = 3600, claims = {} }) {
  const now = Math.floor(Date.now() / 1000);
  const payload = {
    iss: credentials.key,
    sub: identity,
    name: name ?? identity,
    nbf: now - 10 + Math.min(0, validForS),
    exp: now + validForS,
    video: { roomJoin: true, room, ...grants },
    ...claims,
  };
  const signed = `${base64url({ alg: 'HS256', typ: 'JWT' })}.${base64url(payload)}`;
  return `${signed}.${createHmac('sha256', credentials.secret).update(signed).digest('base64url')}`;
}
