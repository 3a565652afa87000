// A zip file of files that are stored as they are: PNG cannot be made smaller.

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function checksum(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// Numbers of 2 or 4 bytes, as [value, bytes].
function little(...numbers) {
  const bytes = new Uint8Array(numbers.reduce((sum, [, size]) => sum + size, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [value, size] of numbers) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return bytes;
}

// A Blob of files ({name, blob}); an Error if they are too large for the format.
export async function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const path = new TextEncoder().encode(name);
    const crc = checksum(new Uint8Array(await blob.arrayBuffer()));
    // Version 2.0, name in UTF-8, stored, 1 January 1980: so are the same files the same zip.
    const common = little(
      [20, 2], [0x0800, 2], [0, 2], [0, 2], [33, 2], [crc, 4], [blob.size, 4], [blob.size, 4],
      [path.length, 2], [0, 2],
    );
    parts.push(little([0x04034b50, 4]), common, path, blob);
    directory.push(
      little([0x02014b50, 4], [20, 2]), common,
      little([0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), path,
    );
    offset += 30 + path.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  if (offset + size > 0xffffffff || files.length > 0xffff) {
    throw new Error("these are too large for one zip: download them one by one");
  }
  const end = little(
    [0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4],
    [0, 2],
  );
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

// Gives every name a number that is not the first of its kind: a.png, a-2.png.
export function distinct(names) {
  const taken = new Set();
  return names.map((name) => {
    const stem = name.replace(/\.png$/, "");
    let unique = name;
    for (let number = 2; taken.has(unique.toLowerCase()); number += 1) {
      unique = `${stem}-${number}.png`;
    }
    taken.add(unique.toLowerCase());
    return unique;
  });
}
