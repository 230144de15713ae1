// When what a node shows may have changed.

/**
 * Call `refresh` after each change of a widget or a wire of `node`, and once it has been loaded. Not where it has left its
 * graph: the node that takes its place, as in a subgraph, shares what its widgets show.
 */
export function afterChanges(node, refresh) {
  const show = () => node.graph && refresh();
  for (const event of ["onConnectionsChange", "onWidgetChanged", "onConfigure"]) {
    const before = node[event];
    node[event] = function (...args) {
      const result = before?.apply(this, args);
      queueMicrotask(show); // when the new value or wire is in place
      return result;
    };
  }
}
