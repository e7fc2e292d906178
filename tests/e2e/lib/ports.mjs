import { readFileSync, readdirSync, readlinkSync } from 'node:fs';

const TCP_LISTEN = '0A';

function socketInodes(pid) {
  const inodes = new Set();
  for (const entry of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const match = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${entry}`));
      if (match) inodes.add(match[1]);
    } catch {
      // Closed since it was listed.
    }
  }
  return inodes;
}

function bound(pid, protocol, wanted) {
  const inodes = socketInodes(pid);
  const lines = readFileSync(`/proc/net/${protocol}`, 'utf8').trim().split('\n').slice(1);
  return lines
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => inodes.has(fields[9]) && wanted(fields))
    .map((fields) => parseInt(fields[1].split(':')[1], 16));
}

/** The TCP ports that a process listens on, and the UDP ports it has bound (IPv4), as the kernel lists them. */
export function listeningPorts(pid) {
  return {
    tcp: bound(pid, 'tcp', (fields) => fields[3] === TCP_LISTEN),
    udp: bound(pid, 'udp', () => true),
  };
}
