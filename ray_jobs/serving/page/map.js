// A picture with its token map on a canvas. Colours are those of setok/drawing.py.

const PALETTE = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167],
  [120, 120, 120], [51, 34, 136], [136, 204, 238], [17, 119, 51], [221, 204, 119], [136, 34, 85], [68, 170, 153],
  [153, 153, 51], [204, 102, 119], [119, 170, 221], [255, 170, 187], [170, 170, 0], [187, 204, 51],
];

export function colour(token) {
  const shade = 0.75 ** Math.floor(token / PALETTE.length);
  return PALETTE[token % PALETTE.length].map((part) => Math.round(part * shade));
}

export class TokenMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.picture = null; // an ImageBitmap
    this.tokens = null; // of /v1/reconstruct
    this.chosen = -1;
    this.view = "both";
  }

  show(picture) {
    this.picture = picture;
    this.tokens = null;
    this.chosen = -1;
    this.draw();
  }

  // The token at a place on the screen, -1 for none.
  at(event) {
    if (!this.tokens) return -1;
    const box = this.canvas.getBoundingClientRect();
    const [rows, columns] = this.tokens.grid;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    return this.tokens.assignment[row]?.[column] ?? -1;
  }

  draw() {
    const { context: c, canvas } = this;
    const side = canvas.width;
    c.clearRect(0, 0, side, side);
    if (!this.picture) return;
    if (this.view !== "map" || !this.tokens) {
      const { width, height } = this.picture;
      const square = Math.min(width, height);
      c.drawImage(this.picture, (width - square) / 2, (height - square) / 2, square, square, 0, 0, side, side);
    }
    if (!this.tokens) return;
    const [rows, columns] = this.tokens.grid;
    const [h, w] = [side / rows, side / columns];
    const map = this.tokens.assignment;
    if (this.view !== "picture") {
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++) {
          c.fillStyle = `rgb(${colour(map[y][x]).join(" ")} / ${this.view === "map" ? 1 : 0.5})`;
          this.fill(x, y, w, h);
        }
      }
    }
    if (this.chosen >= 0) {
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++) {
          if (map[y][x] === this.chosen) continue;
          c.fillStyle = "rgb(0 0 0 / .55)";
          this.fill(x, y, w, h);
        }
      }
    }
    this.outline(map, rows, columns, w, h);
  }

  // One patch, to whole pixels: neighbours neither overlap nor leave a gap.
  fill(x, y, w, h) {
    const [left, top] = [Math.round(x * w), Math.round(y * h)];
    this.context.fillRect(left, top, Math.round((x + 1) * w) - left, Math.round((y + 1) * h) - top);
  }

  outline(map, rows, columns, w, h) {
    const c = this.context;
    c.beginPath();
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const own = map[y][x];
        if (x && map[y][x - 1] !== own) { c.moveTo(x * w, y * h); c.lineTo(x * w, (y + 1) * h); }
        if (y && map[y - 1][x] !== own) { c.moveTo(x * w, y * h); c.lineTo((x + 1) * w, y * h); }
      }
    }
    c.lineWidth = 4; c.strokeStyle = "rgb(0 0 0 / .55)"; c.stroke();
    c.lineWidth = 1.5; c.strokeStyle = "#fff"; c.stroke();
  }
}
