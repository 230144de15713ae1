// Where a number means something else (0 takes what is free), words are chosen instead: beside the number there is a
// choice of what it means, and the number is seen while none of the words is chosen. Saved and sent is the number alone.
import { isLinked } from "./advanced.js";
import { afterChanges } from "./changes.js";
import { hide, redraw } from "./hide.js";

const BY_HAND = "by hand";

/** Offer words for those numbers of `node` that mean something else. */
export function offerWords(node) {
  const inputs = { ...node.constructor.nodeData?.input?.required, ...node.constructor.nodeData?.input?.optional };
  const choices = (node.widgets ?? []).flatMap((number) => {
    const instead = inputs[number.name]?.[1]?.ltx2av_instead;
    return instead ? [{ number, ...instead }] : [];
  });
  // After all others: ComfyUI counts those that are not saved, too, when it saves the values of a node by their places.
  for (const choice of choices) choice.widget = addChoice(node, choice);
  if (choices.length) follow(node, choices);
}

function addChoice(node, { number, words, usual }) {
  const choose = (word) => {
    const [value] = words.find((each) => each[1] === word) ?? [isMeant(number.value, words) ? usual : number.value];
    number.value = value;
    node.onWidgetChanged?.(number.name, value, undefined, number);
  };
  const options = { values: [...words.map((each) => each[1]), BY_HAND], serialize: false };
  if (number.options.advanced) options.advanced = true;
  const widget = node.addWidget("combo", `${number.name} is`, BY_HAND, choose, options);
  widget.label = `${number.label ?? number.name} is`;
  widget.tooltip = number.tooltip;
  widget.serialize = false;
  widget.numberName = number.name;
  return widget;
}

// Show of each number what it is now, whoever has changed it.
function follow(node, choices) {
  const refresh = () => {
    for (const { number, words, widget } of choices) {
      const meant = isMeant(number.value, words);
      widget.value = meant ?? BY_HAND;
      const linked = isLinked(node, number.name);
      setAside(number, meant !== undefined && !linked);
      setAside(widget, linked);
    }
    redraw(node);
    const least = node.computeSize()[1];
    if (node.size[1] < least) node.setSize([node.size[0], least]);
  };
  afterChanges(node, refresh);
  refresh();
}

function isMeant(value, words) {
  return words.find((each) => each[0] === value)?.[1];
}

function setAside(widget, aside) {
  widget.aside = aside; // where what is advanced is folded, that decides as well
  hide(widget, aside);
}
