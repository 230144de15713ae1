// When what a node shows may have changed.

/** Let `object` call `then` after its `method`, which it may lack, with what that was given. */
export function after(object, method, then) {
  const before = object[method];
  object[method] = function (...given) {
    const result = before?.apply(this, given);
    then(...given);
    return result;
  };
}

/**
 * Call `refresh` after each change of a widget or a wire of `node`, and once it has been loaded. Not where it has left its
 * graph: the node that takes its place, as in a subgraph, shares what its widgets show.
 */
export function afterChanges(node, refresh) {
  const show = () => node.graph && refresh();
  for (const event of ["onConnectionsChange", "onWidgetChanged", "onConfigure"]) {
    after(node, event, () => queueMicrotask(show)); // when the new value or wire is in place
  }
}
