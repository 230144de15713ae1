// Widgets that come and go.

/** Show `widget` or not; `redraw` its node afterwards. */
export function hide(widget, hidden) {
  widget.hidden = hidden; // on the canvas
  widget.options.hidden = hidden; // in Nodes 2.0
}

/** Draw `node` with the widgets that it shows now. */
export function redraw(node) {
  node.widgets.push(node.widgets.pop()); // Nodes 2.0 looks at them again once their list has changed
  node.setDirtyCanvas(true, true);
}
