//! What a document is made of.

/// One node and the line, from 1, where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Text without quotes, which may mean something else.
    Plain(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys, which are text, and values.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// Nothing at all.
    pub(super) fn null(line: usize) -> Self {
        Self { line, kind: Kind::Plain(String::new()) }
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Plain(text) | Kind::Text(text) => Some(text),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// How large it is, in nodes and bytes of text, and how deep its nodes are nested.
    pub(super) fn extent(&self) -> (usize, usize) {
        let nodes: Vec<&Self> = match &self.kind {
            Kind::Plain(_) | Kind::Text(_) => Vec::new(),
            Kind::List(nodes) => nodes.iter().collect(),
            Kind::Map(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).collect(),
        };
        let inner = nodes.into_iter().map(Self::extent);
        let own = 1 + self.text().map_or(0, str::len);
        inner.fold((own, 1), |(size, depth), (more, deep)| (size + more, depth.max(deep + 1)))
    }
}
