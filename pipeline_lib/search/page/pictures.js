// Pictures from elsewhere: opened, and shrunk before they are sent, since the network sees a few hundred px.

const LONGEST = 2048; // px
const KEPT = 640; // px of large pictures that are kept with a drawing
const SMALL = 200_000; // bytes of a picture that is kept as it is

// A picture as a step of the drawing. Its bitmap is null where the browser can't show it; `kept` is a data address that
// storage may hold, or "".
export async function stepOf(blob, most = Infinity) {
  const address = URL.createObjectURL(blob);
  const image = await opened(address);
  URL.revokeObjectURL(address);
  const small = blob.size <= SMALL ? await dataAddress(blob) : "";
  if (!image) return { blob, bitmap: null, kept: small };
  const bitmap = shrunk(image, LONGEST);
  const large = bitmap.width * bitmap.height < image.naturalWidth * image.naturalHeight || blob.size > most;
  return {
    blob: large ? await encoded(bitmap, blob.type) : blob,
    bitmap,
    kept: small || shrunk(bitmap, KEPT).toDataURL("image/webp", 0.9),
  };
}

// The step of a picture that was kept; null where that can't be used.
export async function keptStep(address, photo) {
  const [, type, data] = /^data:(image\/[\w.+-]+|application\/octet-stream|);base64,(.*)$/.exec(address) ?? [];
  if (!data) return null;
  const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
  return { ...await stepOf(new Blob([bytes], { type })), ...(photo ? { photo } : {}) };
}

async function opened(address) {
  const image = new Image();
  image.src = address;
  return image.decode().then(() => (image.naturalWidth > 0 ? image : null), () => null);
}

function shrunk(image, longest) {
  const [width, height] = [image.naturalWidth ?? image.width, image.naturalHeight ?? image.height];
  const scale = Math.min(1, longest / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// JPEG has no transparency, which tells drawings from paper.
function encoded(canvas, type) {
  const into = type === "image/jpeg" ? "image/jpeg" : "image/webp";
  return new Promise((resolve) => { canvas.toBlob(resolve, into, 0.92); });
}

function dataAddress(blob) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => resolve(""));
    reader.readAsDataURL(blob);
  });
}
