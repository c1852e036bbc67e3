// Two clips, one clock. The clock is ours; each video follows it by its playback rate, and by a jump if it is far off.

const JUMP_S = 0.12;
const PULL = 1.5;

export class PairPlayer {
  constructor(left, right, { onTime, onPlayed }) {
    this.videos = [left, right];
    this.onTime = onTime;
    this.onPlayed = onPlayed;
    this.rate = 1;
    this.loop = true;
    this.playing = false;
    this.time = 0;
    this.last = null;
    this.loaded = 0;
    this.wanted = new Map(); // video -> where to go when it has ended its present seek
    for (const video of this.videos) video.addEventListener("seeked", () => this.goOn(video));
    requestAnimationFrame((now) => this.tick(now));
  }

  async load(clips, autoplay) {
    const turn = ++this.loaded;
    this.pause();
    this.time = 0;
    this.played = false;
    this.fps = Math.max(...clips.map((clip) => clip.fps || 16));
    this.clips = clips;
    this.wanted.clear();
    await Promise.all(this.videos.map((video, i) => new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = () => reject(new Error("a clip cannot be played"));
      video.src = clips[i].source;
    })));
    if (turn !== this.loaded) return;
    this.lengths = this.videos.map((video) => video.duration);
    this.duration = Math.max(...this.lengths);
    this.numFrames = Math.max(1, Math.round(this.duration * this.fps));
    if (autoplay) this.play();
    this.show();
  }

  play() {
    if (this.time >= this.duration - 0.5 / this.fps) this.seek(0);
    this.playing = true;
    this.last = null;
    this.onTime(this);
  }

  pause() {
    this.playing = false;
    for (const video of this.videos) video.pause();
  }

  toggle() { if (this.playing) { this.pause(); this.show(); } else this.play(); }

  seek(time) {
    this.time = Math.min(Math.max(time, 0), this.duration ?? 0);
    for (const [i, video] of this.videos.entries()) {
      if (this.lengths) this.go(video, Math.min(this.time, Math.max(this.lengths[i] - 0.5 / this.fps, 0)));
    }
    this.onTime(this);
  }

  // One seek at a time: a browser may never end a seek that another one overtakes.
  go(video, time) {
    this.wanted.delete(video);
    if (video.seeking) this.wanted.set(video, time);
    else video.currentTime = time;
  }

  goOn(video) {
    const time = this.wanted.get(video);
    if (time === undefined) return;
    this.wanted.delete(video);
    video.currentTime = time;
  }

  get frame() { return Math.min(Math.floor(this.time * this.fps + 1e-3), (this.numFrames ?? 1) - 1); }

  show() { this.seek((this.frame + 0.5) / this.fps); }

  step(by) {
    this.pause();
    const frame = Math.min(Math.max(this.frame + by, 0), this.numFrames - 1);
    this.seek((frame + 0.5) / this.fps);
  }

  tick(now) {
    requestAnimationFrame((next) => this.tick(next));
    if (!this.playing || !this.duration) return;
    const late = this.videos.some((video) => video.seeking || video.readyState < 2);
    const passed = this.last === null || late ? 0 : Math.min((now - this.last) / 1000, 0.1);
    this.last = now;
    this.time += passed * this.rate;
    if (this.time >= this.duration) this.end();
    if (this.playing) this.videos.forEach((video, i) => this.follow(video, this.lengths[i]));
    this.onTime(this);
  }

  end() {
    if (!this.played) { this.played = true; this.onPlayed(); }
    if (this.loop) { this.seek(0); return; }
    this.pause();
    this.seek(this.duration - 0.5 / this.fps);
  }

  follow(video, length) {
    const target = this.time;
    if (target >= length - 0.5 / this.fps) { video.pause(); return; } // the shorter clip waits on its last frame
    const drift = video.currentTime - target;
    if (Math.abs(drift) > JUMP_S && !video.seeking) video.currentTime = target;
    const rate = this.rate * Math.min(Math.max(1 - PULL * drift, 0.75), 1.25);
    if (Math.abs(video.playbackRate - rate) > 0.005) video.playbackRate = Math.min(Math.max(rate, 0.0625), 16);
    if (video.paused) video.play().catch(() => {}); // refused by the browser: tried again at the next frame
  }

  get drift() { return Math.abs(this.videos[0].currentTime - this.videos[1].currentTime); }
}
