// When what a node shows may have changed.

/** Call `refresh` after each change of a widget or a wire of `node`, and once it has been loaded. */
export function afterChanges(node, refresh) {
  for (const event of ["onConnectionsChange", "onWidgetChanged", "onConfigure"]) {
    const before = node[event];
    node[event] = function (...args) {
      const result = before?.apply(this, args);
      queueMicrotask(refresh); // when the new value or wire is in place
      return result;
    };
  }
}
