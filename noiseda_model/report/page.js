'use strict';
// Draws the report from the JSON in #report and the pictures in #picture-IMAGE-VERSION. Text reaches the page as text
// nodes and attributes only, never as markup.

const report = JSON.parse(document.getElementById('report').textContent);
const main = document.getElementById('main');
const HIGHER_IS_BETTER = {PSNR: true, SSIM: true, LPIPS: false};
const DIGITS = {PSNR: 2, SSIM: 4, LPIPS: 4};
const measured = report.versions.filter(version => version !== 'truth');

// ---------------------------------------------------------------- helpers

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'color') node.style.setProperty('--color', value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
const number = value => value === 'inf' ? Infinity : Number(value);  // JSON has no infinity
const swatch = color => el('span', {class: 'swatch', color, 'aria-hidden': 'true'});

function show(value, digits) {
  if (!Number.isFinite(value)) return value === Infinity ? '\u221e' : '\u2013';
  return value.toFixed(digits).replace('-', '\u2212');
}
const signed = (value, digits) => (value >= 0 ? '+' : '') + show(value, digits);

// Versions and runs of the same name have the same colour.
const labels = [...new Set([...measured, ...report.runs.map(run => run.label)])];
if (!labels.includes('degraded')) labels.unshift('degraded');  // grey stays the degraded one's
const colour = label => `var(--c${labels.indexOf(label) % 8})`;

function section(id, title, ...children) {
  const heading = el('h2', {id: `${id}-title`}, title);
  const node = el('section', {id, 'aria-labelledby': `${id}-title`}, heading, ...children);
  main.append(node);
  document.getElementById('nav').append(el('a', {href: `#${id}`}, title));
  return node;
}

// A row of buttons of which one is pressed.
function choice(name, options, chosen, onchange) {
  const group = el('span', {class: 'group', role: 'group', 'aria-label': name});
  for (const option of options) {
    group.append(el('button', {type: 'button', 'aria-pressed': String(option === chosen), onclick: event => {
      for (const button of group.children) button.setAttribute('aria-pressed', String(button === event.target));
      onchange(option);
    }}, option));
  }
  return group;
}

function select(name, options, chosen, onchange) {
  const box = el('select', {'aria-label': name, onchange: () => onchange(box.value)},
    ...options.map(option => el('option', {value: option, selected: option === chosen}, option)));
  return el('label', {}, name, box);
}

const tip = document.getElementById('tip');

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${clamp(x + 14, 4, innerWidth - box.width - 4)}px`;
  tip.style.top = `${y - box.height - 12 < 4 ? y + 18 : y - box.height - 12}px`;
}
const hideTip = () => { tip.hidden = true; };
document.addEventListener('scroll', hideTip, {passive: true});
document.addEventListener('pointerdown', hideTip, {capture: true});  // a finger leaves no other way

// ---------------------------------------------------------------- figures

const figure = (image, version, metric) => number(image.figures[version][metric]);
const gain = (image, version, metric, reference) => figure(image, version, metric) - figure(image, reference, metric);

// A small table: a row of headings, then rows that begin with a version.
function summary(name, heads, rows) {
  return el('div', {class: 'scroll summary', tabindex: 0, role: 'region', 'aria-label': name}, el('table', {},
    el('thead', {}, el('tr', {}, ...heads.map(text => el('th', {scope: 'col'}, text)))),
    el('tbody', {}, ...rows.map(([version, ...cells]) => el('tr', {},
      el('th', {scope: 'row'}, swatch(colour(version)), version), ...cells)))));
}

function meanTable() {
  const columns = report.metrics.map(
    metric => measured.map(version => mean(report.images.map(image => figure(image, version, metric)))));
  const best = columns.map((column, at) => (HIGHER_IS_BETTER[report.metrics[at]] ? Math.max : Math.min)(...column));
  const heads = report.metrics.map(metric => `${metric} ${HIGHER_IS_BETTER[metric] ? '\u2191' : '\u2193'}`);
  return summary('Means', [`mean of ${report.images.length}`, ...heads],
    measured.map((version, row) => [version, ...columns.map((column, at) =>
      el('td', {class: column[row] === best[at] ? 'best' : null}, show(column[row], DIGITS[report.metrics[at]])))]));
}

// How often and by how much each version is better than the reference.
function gainTable(versions, reference, metric) {
  const sign = HIGHER_IS_BETTER[metric] ? 1 : -1, digits = DIGITS[metric];
  return summary('Gains', [`${metric} against ${reference}`, 'better on', 'mean difference', 'std. error'],
    versions.map(version => {
      const gains = report.images.map(image => gain(image, version, metric, reference))
        .filter(value => !Number.isNaN(value));
      const average = mean(gains);
      const variance = mean(gains.map(value => (value - average) ** 2)) * gains.length / (gains.length - 1);
      return [version, `${gains.filter(value => value * sign > 0).length} of ${report.images.length}`,
        signed(average, digits), show(Math.sqrt(variance / gains.length), digits)].map(
        (cell, at) => at ? el('td', {}, cell) : cell);
    }));
}

// ---------------------------------------------------------------- viewer

const MAX_SCALE = 32;  // screen pixels per image pixel
const CROP = 96;  // image pixels that a crop shows at least, before zooming

function viewer() {
  const shown = report.images.map((image, at) => ({...image, at})).filter(image => image.window);
  const restored = report.versions.filter(version => version !== 'degraded' && version !== 'truth');
  const isAlone = report.versions.length === 1;  // nothing to compare it with
  const state = {
    image: 0, split: isAlone ? 1 : 0.5, scale: 1, x: 0, y: 0, mode: 'Slider',
    a: restored.length > 1 ? restored[0] : report.versions[0], b: restored[restored.length - 1],
  };
  const layer = () => el('div', {class: 'layer'}, el('img', {alt: '', draggable: 'false'}));
  const layers = [layer(), layer()];
  const handle = el('div', {class: 'handle', role: 'slider', tabindex: 0, 'aria-valuemin': 0, 'aria-valuemax': 100,
    'aria-orientation': 'horizontal'});
  const tags = [el('span', {class: 'tag left'}), el('span', {class: 'tag right'})];
  const frame = el('div', {class: 'frame'});
  const stage = el('div', {class: isAlone ? 'stage alone' : 'stage', tabindex: 0, role: 'group'},
    el('div', {class: 'layers'}, ...layers), frame, ...tags, handle);
  const panes = report.versions.map(version => {
    const view = el('div', {class: 'view'}, el('img', {alt: '', draggable: 'false'}));
    const caption = el('figcaption', {});
    return {version, view, caption, node: el('figure', {class: 'pane'}, view, caption)};
  });
  const zoomText = el('span', {'aria-live': 'polite'});
  const caption = el('p', {class: 'note'});

  const current = () => shown[state.image];
  const size = () => current().window.slice(2);
  const stageSize = () => [stage.clientWidth, stage.clientHeight];
  const fitScale = () => Math.min(...stageSize().map((side, axis) => side / size()[axis]));
  // Crops are enlarged more than the stage, in a fixed proportion, up to where they are twice as near as at first.
  const paneScale = () => {
    const nearest = Math.max(state.scale, 2 * panes[0].view.clientWidth / CROP);
    return Math.min(nearest, state.scale * Math.max(1, Math.min(2, panes[0].view.clientWidth / CROP) / fitScale()));
  };

  const picture = version =>
    document.getElementById(`picture-${current().at}-${report.versions.indexOf(version)}`).textContent;

  // Where the image's corner lies in a view of these sides: centred on (x, y), without a gap at the borders.
  function corner(scale, sides) {
    return [state.x, state.y].map((centre, axis) => {
      const length = size()[axis] * scale, side = sides[axis];
      return length <= side ? (side - length) / 2 : clamp(side / 2 - centre * scale, side - length, 0);
    });
  }

  function place(image, scale, sides) {
    const [left, top] = corner(scale, sides);
    image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    image.parentNode.classList.toggle('sharp', scale * devicePixelRatio >= 2);
  }

  function describe(version) {
    const image = current();
    return report.metrics.length && image.figures[version]
      ? `${version}  ${show(figure(image, version, 'PSNR'), 2)} dB` : version;
  }

  function draw() {
    const fit = fitScale(), sides = stageSize();
    state.scale = clamp(state.scale, fit, Math.max(MAX_SCALE, fit));
    stage.classList.toggle('zoomed', state.scale > fit * 1.001);
    stage.classList.toggle('difference', state.mode !== 'Slider');
    layers.forEach(each => place(each.firstChild, state.scale, sides));
    layers[1].style.clipPath = state.mode === 'Slider' ? `inset(0 0 0 ${state.split * 100}%)` : 'none';
    handle.style.left = `${state.split * 100}%`;
    const percent = Math.round(state.split * 100);
    handle.setAttribute('aria-valuenow', percent);
    handle.setAttribute('aria-valuetext', `${percent} % ${state.a}, ${100 - percent} % ${state.b}`);
    const scale = paneScale();
    for (const pane of panes) place(pane.view.firstChild, scale, [pane.view.clientWidth, pane.view.clientHeight]);
    drawFrame(scale);
    zoomText.textContent = `${Math.round(state.scale * 100)} %`;
  }

  // The part of the stage that the crops below show.
  function drawFrame(scale) {
    const view = [panes[0].view.clientWidth, panes[0].view.clientHeight];
    const from = corner(scale, view), at = corner(state.scale, stageSize());
    const box = [0, 1].map(axis => {
      const start = Math.max(0, -from[axis] / scale);
      return [at[axis] + start * state.scale, Math.min(view[axis] / scale, size()[axis]) * state.scale];
    });
    frame.hidden = view[0] / scale >= size()[0] && view[1] / scale >= size()[1];
    Object.assign(frame.style, {left: `${box[0][0]}px`, top: `${box[1][0]}px`, width: `${box[0][1]}px`,
      height: `${box[1][1]}px`});
  }

  function setVersions() {
    [state.a, state.b].forEach((version, side) => {
      layers[side].firstChild.src = picture(version);
      layers[side].firstChild.alt = `${current().name}, ${version}`;
      tags[side].textContent = describe(version);
    });
    stage.setAttribute('aria-label', `${current().name}: ${state.a} and ${state.b}. Plus and minus zoom, arrows move.`);
    handle.setAttribute('aria-label', `Split between ${state.a} and ${state.b}`);
    draw();
  }

  function setImage(index) {
    state.image = (index + shown.length) % shown.length;
    const image = current();
    [state.x, state.y] = image.focus;
    const [width, height] = size();
    stage.style.aspectRatio = `${width} / ${height}`;
    for (const pane of panes) {
      pane.view.firstChild.src = picture(pane.version);
      pane.view.firstChild.alt = `${image.name}, ${pane.version}, crop`;
      pane.caption.replaceChildren(pane.version === 'truth' ? '' : swatch(colour(pane.version)), pane.version);
      if (image.figures[pane.version]) {
        pane.caption.append(el('div', {class: 'figures'}, ...report.metrics.map(metric => el('span', {},
          `${metric} ${show(figure(image, pane.version, metric), DIGITS[metric])}`))));
      }
    }
    const cut = width !== image.size[0] || height !== image.size[1];
    caption.textContent = `${image.name}, ${image.size[0]} \u00d7 ${image.size[1]} pixels`
      + (cut ? `, of which ${width} \u00d7 ${height} are shown` : '');
    picker.value = String(state.image);
    [...thumbnails.children].forEach((button, at) => button.setAttribute('aria-current', String(at === state.image)));
    state.scale = 0;  // the whole image
    setVersions();
    markRow(image.at);
  }

  function zoom(factor, at) {
    const old = state.scale, sides = stageSize();
    const [left, top] = corner(old, sides);
    const point = at || sides.map(side => side / 2);
    const fixed = [(point[0] - left) / old, (point[1] - top) / old];  // what stays under the pointer
    state.scale = clamp(old * factor, fitScale(), MAX_SCALE);
    if (at) centre(...[0, 1].map(axis => fixed[axis] + (sides[axis] / 2 - point[axis]) / state.scale));
    draw();
  }

  function centre(x, y) {
    const [width, height] = size();
    state.x = clamp(x, 0, width);
    state.y = clamp(y, 0, height);
  }

  const move = (x, y) => { centre(state.x + x, state.y + y); draw(); };
  const setSplit = value => { state.split = clamp(value, 0, 1); draw(); };
  const local = event => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  // Pointers: one drags (the split, or the image where it is zoomed), two pinch, a click moves the crops.
  function listen(node, scale, onclick) {
    const down = new Map();
    let start = null, isSplit = false, spread = 0;
    const apart = () => {
      const [one, two] = [...down.values()];
      return Math.hypot(one[0] - two[0], one[1] - two[1]);
    };
    const travelled = event => Math.hypot(event.clientX - start[0], event.clientY - start[1]);
    node.addEventListener('pointerdown', event => {
      if (event.button) return;
      node.setPointerCapture(event.pointerId);
      down.set(event.pointerId, [event.clientX, event.clientY]);
      start = [event.clientX, event.clientY];
      isSplit = node === stage && !isAlone && state.mode === 'Slider' && down.size === 1
        && (event.target === handle || !stage.classList.contains('zoomed'));
      if (down.size === 2) spread = apart();
    });
    node.addEventListener('pointermove', event => {
      if (!down.has(event.pointerId)) return;
      const old = down.get(event.pointerId);
      down.set(event.pointerId, [event.clientX, event.clientY]);
      if (down.size === 2) {
        const now = apart();
        zoom(now / spread, node === stage ? local(event) : null);
        spread = now;
        start = null;
      } else if (isSplit) {
        if (!start || travelled(event) > 3) setSplit(local(event)[0] / stage.clientWidth);
      } else {
        move((old[0] - event.clientX) / scale(), (old[1] - event.clientY) / scale());
      }
    });
    const up = event => {
      if (start && event.type === 'pointerup' && event.target !== handle && travelled(event) <= 3) onclick(event);
      down.delete(event.pointerId);
      start = null;
    };
    node.addEventListener('pointerup', up);
    node.addEventListener('pointercancel', up);
    node.addEventListener('wheel', event => {
      if (!(event.ctrlKey || event.metaKey || stage.contains(document.activeElement))) return;
      event.preventDefault();
      zoom(Math.exp(-clamp(event.deltaY, -60, 60) / 150), node === stage ? local(event) : null);
    }, {passive: false});
  }
  listen(stage, () => state.scale, event => {
    const [left, top] = corner(state.scale, stageSize()), [x, y] = local(event);
    centre((x - left) / state.scale, (y - top) / state.scale);
    draw();
  });
  for (const pane of panes) listen(pane.view, paneScale, () => {});
  stage.addEventListener('dblclick', event => {
    if (event.target !== handle) zoom(stage.classList.contains('zoomed') ? 0 : 4 / state.scale, local(event));
  });
  handle.addEventListener('keydown', event => {
    const step = {ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1,
      Home: -1, End: 1}[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    setSplit(state.split + step);
  });
  stage.addEventListener('keydown', event => {
    const step = 40 / state.scale;
    const action = {'+': () => zoom(1.5), '=': () => zoom(1.5), '-': () => zoom(1 / 1.5), 0: () => zoom(0),
      ArrowLeft: () => move(-step, 0), ArrowRight: () => move(step, 0), ArrowUp: () => move(0, -step),
      ArrowDown: () => move(0, step), PageUp: () => setImage(state.image - 1),
      PageDown: () => setImage(state.image + 1), Escape: () => document.activeElement.blur()}[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });

  const picker = el('select', {'aria-label': 'Image', onchange: () => setImage(Number(picker.value))},
    ...shown.map((image, at) => el('option', {value: at}, image.name)));
  const thumbnails = el('div', {class: 'thumbnails', role: 'group', 'aria-label': 'Images'},
    ...shown.map((image, at) => el('button', {type: 'button', title: image.name, 'aria-label': image.name,
      onclick: () => setImage(at)}, el('img', {src: image.thumbnail, alt: '', loading: 'lazy', decoding: 'async'}))));
  const button = (text, label, onclick) => el('button', {type: 'button', 'aria-label': label, onclick}, text);
  section('images', 'Images',
    el('p', {class: 'note'},
      (isAlone ? '' : 'Drag the line to compare. The crops show the framed part of every version. ')
      + 'A click moves the frame. Zoom with the buttons, a pinch, a double click or Ctrl and wheel, then drag.'),
    el('div', {class: 'bar'},
      el('span', {class: 'group'}, button('\u2039', 'Previous image', () => setImage(state.image - 1)),
        button('\u203a', 'Next image', () => setImage(state.image + 1))), picker,
      ...(isAlone ? [] : [
        select('left', report.versions, state.a, value => { state.a = value; setVersions(); }),
        select('right', report.versions, state.b, value => { state.b = value; setVersions(); }),
        choice('Comparison', ['Slider', 'Difference \u00d7 8'], 'Slider', value => { state.mode = value; draw(); }),
      ]),
      el('span', {class: 'group push', role: 'group', 'aria-label': 'Zoom'},
        button('\u2212', 'Zoom out', () => zoom(1 / 1.5)), button('Fit', 'Whole image', () => zoom(0)),
        button('1:1', 'One pixel a pixel', () => zoom(1 / devicePixelRatio / state.scale)),
        button('+', 'Zoom in', () => zoom(1.5))), zoomText),
    el('div', {class: 'viewer'}, stage, el('div', {class: 'panes'}, ...panes.map(pane => pane.node))), caption,
    shown.length > 1 ? thumbnails : null);
  new ResizeObserver(draw).observe(stage);
  let markRow = () => {};
  setImage(0);
  return {
    show: at => {
      setImage(shown.findIndex(image => image.at === at));
      stage.scrollIntoView({block: 'center'});
      stage.focus({preventScroll: true});
    },
    whenShown: callback => { markRow = callback; markRow(current().at); },
  };
}

// ---------------------------------------------------------------- table

// Draws columns for one metric and sorts by any of them; state.metric and state.reference are the section's.
function perImageTable(state, view) {
  const table = el('table', {});
  let order = {column: 0, descending: false}, rows = [];
  let marked = -1;

  function columns() {
    const gains = measured.filter(version => version !== state.reference && version !== 'degraded');
    return [
      {title: 'image', value: image => image.name},
      ...measured.map(version => ({title: version, color: colour(version),
        value: image => figure(image, version, state.metric), text: value => show(value, DIGITS[state.metric])})),
      ...gains.map(version => ({title: `${version} \u2212 ${state.reference}`, isGain: true,
        value: image => gain(image, version, state.metric, state.reference),
        text: value => signed(value, DIGITS[state.metric])})),
    ];
  }

  function compare(one, two) {
    const [a, b] = [one, two].map(row => row.values[order.column]);
    if (typeof a === 'string') return a.localeCompare(b, undefined, {numeric: true});
    return (Number.isNaN(a) ? -Infinity : a) - (Number.isNaN(b) ? -Infinity : b) || 0;
  }

  function cell(column, value, best) {
    const sign = HIGHER_IS_BETTER[state.metric] ? value : -value;
    const kind = column.isGain ? (sign > 0 ? 'gain' : sign < 0 ? 'loss' : null) : value === best ? 'best' : null;
    return el('td', {class: kind}, column.text(value));
  }

  function draw() {
    const all = columns();
    if (order.column >= all.length) order = {column: 0, descending: false};
    rows = report.images.map((image, at) => ({image, at, values: all.map(column => column.value(image))}));
    rows.sort((one, two) => (order.descending ? -1 : 1) * compare(one, two) || one.at - two.at);
    const better = HIGHER_IS_BETTER[state.metric] ? Math.max : Math.min;
    table.replaceChildren(
      el('thead', {}, el('tr', {}, ...all.map((column, at) => el('th', {scope: 'col',
        'aria-sort': at !== order.column ? 'none' : order.descending ? 'descending' : 'ascending'},
        el('button', {type: 'button', onclick: () => sort(at)},
          column.color ? swatch(column.color) : '', column.title))))),
      el('tbody', {}, ...rows.map(({image, at, values}) => {
        const best = better(...values.slice(1, 1 + measured.length));
        return el('tr', {'data-at': at, class: at === marked ? 'current' : null},
          el('th', {scope: 'row', title: image.name}, image.window
            ? el('button', {type: 'button', onclick: () => view.show(at)}, image.name) : image.name),
          ...values.slice(1).map((value, place) => cell(all[place + 1], value, best)));
      })),
      el('tfoot', {}, el('tr', {}, el('th', {scope: 'row'}, 'mean'), ...all.slice(1).map(
        (column, place) => el('td', {}, column.text(mean(rows.map(row => row.values[place + 1]))))))));
  }

  function sort(column) {
    const isText = column === 0;
    order = {column, descending: order.column === column ? !order.descending : !isText};
    draw();
    table.querySelectorAll('thead button')[column].focus();
  }

  view.whenShown(at => {
    marked = at;
    for (const row of table.querySelectorAll('tbody tr')) {
      row.classList.toggle('current', Number(row.dataset.at) === at);
    }
  });
  const node = el('div', {class: 'scroll tall', tabindex: 0, role: 'region', 'aria-label': 'Figures of each image'},
    table);
  return {node, draw};
}

// ---------------------------------------------------------------- plots

function tickStep(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map(factor => factor * power).find(value => value >= rough * 0.999);
}

function ticks(low, high, step) {
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step);
  return found;
}

// A tick's label, with the decimals that tell it from the next one.
function short(value, step = Math.abs(value)) {
  const size = Math.abs(value), decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  if (size < step * 1e-6) return '0';
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
  const digits = Math.floor(Math.log10(size) + 1e-9) + decimals;  // after the first one
  return (decimals > 4 ? value.toExponential(Math.max(0, digits)) : value.toFixed(decimals)).replaceAll('-', '\u2212');
}
const precise = value => String(+value.toPrecision(5)).replaceAll('-', '\u2212');

// A figure that draws itself anew when its width changes. paint(canvas) adds to canvas.svg and sets canvas.read, which
// makes the words for a pointer at x.
function plot(title, note, description, paint, margins) {
  const canvas = {svg: svg('svg', {role: 'img', 'aria-label': description}), left: 46, right: 10, top: 12, bottom: 24,
    ...margins};
  const node = el('figure', {class: 'plot'},
    el('figcaption', {}, title, note ? el('span', {}, ` ${note}`) : null), canvas.svg);
  const draw = () => {
    canvas.width = canvas.svg.clientWidth;
    canvas.height = canvas.svg.clientHeight;
    canvas.svg.replaceChildren();
    canvas.read = null;
    if (canvas.width) paint(canvas);
  };
  const read = event => {
    const x = event.clientX - canvas.svg.getBoundingClientRect().left;
    if (canvas.read) showTip(canvas.read(x), event.clientX, event.clientY);
  };
  for (const kind of ['pointermove', 'pointerdown']) canvas.svg.addEventListener(kind, read);
  canvas.svg.addEventListener('pointerleave', event => { if (event.pointerType !== 'touch') hideTip(); });
  new ResizeObserver(draw).observe(node);
  return {node, draw};
}

// Axes with a scale each: {low, high, count of ticks, log}; returns the functions from a value to a pixel. There may be
// no y.
function axes(canvas, x, y) {
  const {left, right, top, bottom, width, height} = canvas;
  const position = (axis, from, to) => value => {
    const [low, high, at] = axis.log ? [axis.low, axis.high, value].map(Math.log10) : [axis.low, axis.high, value];
    return from + (to - from) * (at - low) / (high - low || 1);
  };
  const toX = position(x, left, width - right), toY = y && position(y, height - bottom, top);
  const marks = axis => {
    if (!axis.log) {
      const step = tickStep(axis.low, axis.high, axis.count);
      return ticks(axis.low, axis.high, step).map(value => [value, short(value, step)]);
    }
    const ends = [Math.floor(Math.log10(axis.low)), Math.ceil(Math.log10(axis.high))];
    const powers = ticks(...ends, Math.max(1, tickStep(...ends, 4))).map(power => 10 ** power);
    const inside = powers.filter(value => value >= axis.low && value <= axis.high);
    return (inside.length > 1 ? inside : [axis.low, axis.high]).map(value => [value, short(value)]);
  };
  for (const [value, text] of y ? marks(y) : []) {
    const [kind, at] = [text === '0' ? 'axis' : 'grid', toY(value)];
    canvas.svg.append(svg('line', {class: kind, x1: left, x2: width - right, y1: at, y2: at}),
      svg('text', {x: left - 6, y: at + 4, 'text-anchor': 'end'}, text));
  }
  for (const [value, text] of marks(x)) {
    const at = toX(value), anchor = at > width - right - 14 ? 'end' : at < left + 8 ? 'start' : 'middle';
    canvas.svg.append(svg('text', {x: at, y: height - 8, 'text-anchor': anchor}, text));
  }
  canvas.svg.append(svg('line', {class: 'axis', x1: left, x2: width - right, y1: height - bottom, y2: height - bottom}));
  return [toX, toY];
}

const path = points => points.map(([x, y], at) => `${at ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');

// Histograms of several series in the same bins, one below the other.
function histogram(title, note, series, digits) {
  const all = series.flatMap(each => each.values).filter(Number.isFinite);
  let low = Math.min(...all), high = Math.max(...all);
  if (!(low < high)) [low, high] = all.length ? [low - 0.5, high + 0.5] : [0, 1];
  const count = clamp(Math.round(3 * Math.sqrt(all.length / series.length)), 10, 40);
  const step = tickStep(low, high, count);
  const first = Math.floor(low / step + 1e-9), bins = Math.max(1, Math.ceil(high / step - 1e-9) - first);
  const counted = series.map(each => {
    const counts = new Array(bins).fill(0);
    for (const value of each.values.filter(Number.isFinite)) {
      counts[clamp(Math.floor(value / step + 1e-9) - first, 0, bins - 1)] += 1;
    }
    return counts;
  });
  const highest = Math.max(...counted.flat(), 1), row = 62;
  const named = each => `${each.label}: mean ${show(mean(each.values), digits)}`;
  const words = `Histogram of ${title}. ${series.map(named).join('; ')}`;
  const made = plot(title, note, words, canvas => {
    const [toX] = axes(canvas, {low: first * step, high: (first + bins) * step, count: 6}, null);
    series.forEach((each, at) => {
      const base = canvas.top + row * (at + 1) - 4, add = (tag, ...rest) => canvas.svg.append(svg(tag, ...rest));
      const corners = counted[at].flatMap((value, bin) => [bin, bin + 1].map(
        edge => [toX((first + edge) * step), base - value / highest * (row - 22)]));
      add('path', {class: 'area', color: each.color,
        d: path([[corners[0][0], base], ...corners, [corners[corners.length - 1][0], base]]) + 'Z'});
      const mark = (value, kind) => add('line', {class: kind, color: each.color, x1: toX(value), x2: toX(value),
        y1: base - row + 20, y2: base});
      if (first < 0 && first + bins > 0) mark(0, 'axis');
      if (Number.isFinite(mean(each.values))) mark(mean(each.values), 'mean');
      add('text', {class: 'name', x: canvas.left, y: base - row + 15}, named(each));
    });
    canvas.read = x => {
      const share = (x - canvas.left) / (canvas.width - canvas.left - canvas.right);
      const bin = clamp(Math.floor(share * bins), 0, bins - 1);
      const range = [bin, bin + 1].map(edge => ((first + edge) * step).toFixed(digits)).join(' to ');
      return [range, ...series.map((each, at) => `${each.label}: ${counted[at][bin]}`)].join('\n');
    };
  }, {left: 8});
  made.node.querySelector('svg').style.height = `${row * series.length + 36}px`;
  return made;
}

// Exponential moving average without the pull of its start.
function smooth(values, weight) {
  let sum = 0, norm = 0;
  return values.map(value => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + 1 - weight;
    return sum / norm;
  });
}

// Curves over iterations; look = {smoothing, log} is shared by all plots, of which only the noisy ones are smoothed.
function curves(title, series, look, isNoisy) {
  const words = series.map(each => {
    const last = each.values[each.values.length - 1];
    return `${each.label}: ${last === null ? 'not finite' : precise(last)} at iteration ${each.steps[each.steps.length - 1]}`;
  }).join('; ');
  return plot(title, '', `${title} over iterations. ${words}`, canvas => {
    const usable = value => value !== null && (!look.log || value > 0);
    const values = series.flatMap(each => each.values.filter(usable));
    const steps = series.flatMap(each => each.steps);
    if (!values.length) {
      canvas.svg.append(svg('text', {x: canvas.left, y: 40}, look.log ? 'no positive value' : 'no finite value'));
      return;
    }
    let low = Math.min(...values), high = Math.max(...values);
    if (look.log) [low, high] = low === high ? [low / 2, high * 2] : [low, high];
    else {
      const near = 3 * (high - low) || Infinity;  // 0 is then in the plot
      const margin = 0.05 * (high - low || Math.abs(low) || 1);
      [low, high] = [low >= 0 && low < near ? 0 : low - margin, high <= 0 && -high < near ? 0 : high + margin];
    }
    const from = Math.min(...steps), to = Math.max(...steps);
    const [toX, toY] = axes(canvas, {low: from < to ? from : Math.min(0, to - 1), high: to, count: 5},
      {low, high, count: 5, log: look.log});
    const few = series.every(each => each.steps.length <= 15);
    const smoothing = isNoisy && !few ? look.smoothing : 0;
    for (const each of series) {
      const points = values => each.steps.map((step, at) => [step, values[at]]).filter(([, value]) => usable(value))
        .map(([step, value]) => [toX(step), toY(value)]);
      const add = (tag, attributes) => canvas.svg.append(svg(tag, {color: each.color, ...attributes}));
      if (smoothing) add('path', {class: 'curve raw', d: path(points(each.values))});
      const line = points(smoothing ? smooth(each.values, smoothing) : each.values);
      add('path', {class: 'curve', d: path(line)});
      if (few) line.forEach(([cx, cy]) => add('circle', {class: 'dot', r: 3, cx, cy}));
    }
    const cursor = svg('line', {class: 'axis cursor', y1: canvas.top, y2: canvas.height - canvas.bottom});
    canvas.svg.append(cursor);
    canvas.read = x => {
      const found = series.map(each => {
        const at = each.steps.reduce((best, step, place) =>
          Math.abs(toX(step) - x) < Math.abs(toX(each.steps[best]) - x) ? place : best, 0);
        return {label: each.label, step: each.steps[at], value: each.values[at]};
      });
      for (const name of ['x1', 'x2']) cursor.setAttribute(name, toX(found[0].step));
      return found.map(each => `${each.label}, iteration ${each.step}: ${each.value === null ? 'not finite'
        : precise(each.value)}`).join('\n');
    };
  });
}

const legend = names => el('div', {class: 'legend'}, ...names.map(name => el('span', {}, swatch(colour(name)), name)));

// ---------------------------------------------------------------- sections

function figuresSection(view) {
  const state = {metric: report.metrics[0], reference: report.reference};
  const table = perImageTable(state, view);
  const words = el('div', {'aria-live': 'polite'}), plots = el('div', {class: 'plots wide'});

  function draw() {
    const {metric, reference} = state;
    const others = measured.filter(version => version !== reference && version !== 'degraded');
    const series = (versions, value) => versions.map(
      version => ({label: version, color: colour(version), values: report.images.map(image => value(image, version))}));
    words.replaceChildren(others.length ? gainTable(others, reference, metric) : '');
    const note = 'number of images; dashed: mean';
    const drawn = [histogram(`${metric} of each image`, note,
      series(measured, (image, version) => figure(image, version, metric)), DIGITS[metric])];
    if (others.length) {
      drawn.push(histogram(`${metric} minus that of ${reference}`, note,
        series(others, (image, version) => gain(image, version, metric, reference)), DIGITS[metric]));
    }
    plots.replaceChildren(...drawn.map(each => each.node));
    table.draw();
  }

  section('figures', 'Figures',
    el('div', {class: 'bar'},
      choice('Metric', report.metrics, state.metric, value => { state.metric = value; draw(); }),
      measured.length > 1
        ? select('gain over', measured, state.reference, value => { state.reference = value; draw(); }) : null),
    words, plots, table.node);
  draw();
}

// What NoiseDAModel logs: title, pattern of the tags, whether to smooth, what it is.
const GROUPS = [
  ['Validation', /^metrics\//, false, 'Measured on the validation images while training.'],
  ['Losses', /^losses\/|^l_|^gap$/, true, 'l_pix: pixel loss. l_noise: error of the noise prediction, 1 for a blind '
    + 'network. l_con: hinge between both swaps of the residuals (Eq. 3); gap: what it acts on, before the hinge.'],
  ['Weight of the adaptation', /^lambda$/, false, 'Weight of the diffusion loss; it rises to about beta (Eq. 5).'],
  ['Shortcut monitor', /^shortcut_/, false, 'Rise of the noise-prediction error when one restored image is replaced by noise '
    + 'or by its blurred copy. Blur near 0: the diffusion network does not use the detail of that image; below: it '
    + 'prefers it blurred.'],
  ['Gradient norms', /^grad_/, true, 'grad_pix and grad_dif_*: what each loss sends to the restored images. grad_g, '
    + 'grad_diffusion: of the weights.'],
  ['Other', /./, true, ''],
];

function trainingSection() {
  const runs = report.runs.filter(run => Object.keys(run.curves).length);
  if (!runs.length) return;
  const look = {smoothing: 0.6, log: false};
  const drawn = [];
  const redraw = () => drawn.forEach(each => each.draw());
  const smoothing = el('input', {type: 'range', min: 0, max: 0.98, step: 0.02, value: look.smoothing,
    oninput: () => { look.smoothing = Number(smoothing.value); redraw(); }});
  const log = el('input', {type: 'checkbox', onchange: () => { look.log = log.checked; redraw(); }});
  const tags = [...new Set(runs.flatMap(run => Object.keys(run.curves)))];
  const node = section('training', 'Training',
    el('p', {class: 'note'}, 'Over iterations, read from the TensorBoard events. Pale: as logged; strong: smoothed.'),
    el('div', {class: 'bar'}, el('label', {}, 'smoothing', smoothing), el('label', {}, log, 'logarithmic')),
    legend(runs.map(run => run.label)));
  for (const [title, , isNoisy, note] of GROUPS) {
    const mine = tags.filter(tag => GROUPS.find(group => group[1].test(tag))[0] === title);
    if (!mine.length) continue;
    const plots = mine.map(tag => curves(tag.replace(/^(losses|metrics)\//, ''),
      runs.filter(run => run.curves[tag]).map(run => ({label: run.label, color: colour(run.label),
        steps: run.curves[tag][0], values: run.curves[tag][1]})), look, isNoisy));
    drawn.push(...plots);
    node.append(el('h3', {}, title), note ? el('p', {class: 'note'}, note) : '',
      el('div', {class: 'plots'}, ...plots.map(each => each.node)));
  }
}

function optionsSection() {
  const files = report.runs.flatMap(run => run.options.map(([name, text]) => ({run: run.label, name, text})));
  if (!files.length) return;
  const known = new Set(files[0].text.split('\n').map(line => line.trim()));
  const content = (file, at) => file.text.split('\n').flatMap(line => {
    const isNew = at > 0 && line.trim() && !line.trim().startsWith('#') && !known.has(line.trim());
    return [isNew ? el('mark', {}, line) : line, '\n'];
  });
  section('options', 'Options',
    el('p', {class: 'note'}, 'Each run\u2019s option file and command, as they were kept when the run began.'
      + (files.length > 1 ? ` Marked: lines that ${files[0].run} does not have.` : '')),
    ...files.map((file, at) => el('details', {open: files.length === 1},
      el('summary', {}, swatch(colour(file.run)), `${file.run}: ${file.name}`),
      el('pre', {tabindex: 0}, ...content(file, at)))));
}

function build() {
  const parts = [];
  const counted = (list, word) => list.length && parts.push(`${list.length} ${word}${list.length > 1 ? 's' : ''}`);
  counted(report.images, 'image');
  if (report.images.length) parts.push(report.versions.join(', '));
  counted(report.runs, 'training run');
  document.getElementById('subtitle').textContent = [...parts, report.made].join(' \u00b7 ');
  if (report.metrics.length) section('means', 'Means', meanTable());
  if (report.images.length) {
    const view = viewer();
    if (report.metrics.length) figuresSection(view);
  }
  trainingSection();
  optionsSection();
  const definitions = Object.entries(report.definition).map(([name, text]) => el('p', {}, `${name}: ${text}.`));
  document.getElementById('footer').append(...report.notes.map(note => el('p', {}, note)), ...definitions,
    el('p', {}, `Made by noiseda-report ${report.version}, ${report.made}.`));
}
build();
