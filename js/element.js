// Widgets that are elements of the page.
const MARGIN = 10; // around each on the canvas; pixels
let made = 0;

/** Show `element` on `node`, at least so many pixels high, with more `options` of ComfyUI's. It is not saved. */
export function addElement(node, name, element, height, options = {}) {
  // Nodes 2.0 tells widgets apart by node, name and type: of one type, the node that an undo puts in place of another
  // would go on showing the element of that one.
  const widget = node.addDOMWidget(name, `ltx2av_${++made}`, element, {
    serialize: false,
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: () => height + 2 * MARGIN,
    ...options,
  });
  widget.serialize = false;
  widget.label = name.replace("ltx2av_", ""); // in the panel of parameters, and in App mode
  // As wide as its node: the panel of parameters sets its own width, with which the canvas would go on drawing.
  Object.defineProperty(widget, "width", { get() {}, set() {} });
  return widget;
}
