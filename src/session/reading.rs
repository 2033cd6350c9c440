//! The statements that lend a transaction other settings for a moment and give them back. They return no rows.
//!
//! Nobody can see them: what is reported when a batch is over is what was reported before, an error takes them back with
//! the transaction, and each value is kept meanwhile in a setting of ours, so that it need not be known here.

use crate::session::parameters::push_literal;

/// Sets `settings` for the rest of the transaction, and keeps what they were.
pub(super) fn lend(settings: &[(&str, &[u8])]) -> Vec<u8> {
    statement(settings, |sql, (name, value)| {
        push_set(sql, &kept(name), |sql| push_current(sql, name));
        sql.push(b',');
        push_set(sql, name, |sql| push_literal(sql, value));
    })
}

/// Sets `settings` back to what [`lend`] has kept.
pub(super) fn give_back(settings: &[(&str, &[u8])]) -> Vec<u8> {
    statement(settings, |sql, (name, _)| push_set(sql, name, |sql| push_current(sql, &kept(name))))
}

/// `concat` is never NULL, and its arguments are evaluated in their order.
fn statement(settings: &[(&str, &[u8])], push: impl Fn(&mut Vec<u8>, (&str, &[u8]))) -> Vec<u8> {
    let mut sql = b"SELECT WHERE pg_catalog.concat(".to_vec();
    for (at, setting) in settings.iter().enumerate() {
        if at > 0 {
            sql.push(b',');
        }
        push(&mut sql, *setting);
    }
    sql.extend_from_slice(b") IS NULL");
    sql
}

fn kept(name: &str) -> String {
    format!("stagedoor.{name}")
}

fn push_set(sql: &mut Vec<u8>, name: &str, push_value: impl FnOnce(&mut Vec<u8>)) {
    sql.extend_from_slice(b"pg_catalog.set_config(");
    push_literal(sql, name.as_bytes());
    sql.push(b',');
    push_value(sql);
    sql.extend_from_slice(b",true)");
}

fn push_current(sql: &mut Vec<u8>, name: &str) {
    sql.extend_from_slice(b"pg_catalog.current_setting(");
    push_literal(sql, name.as_bytes());
    sql.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_kept_and_given_back() {
        let settings: [(&str, &[u8]); 2] = [("TimeZone", b"UTC"), ("DateStyle", b"ISO, DMY")];
        let lent = "SELECT WHERE pg_catalog.concat(\
                    pg_catalog.set_config(E'stagedoor.TimeZone',pg_catalog.current_setting(E'TimeZone'),true),\
                    pg_catalog.set_config(E'TimeZone',E'UTC',true),\
                    pg_catalog.set_config(E'stagedoor.DateStyle',pg_catalog.current_setting(E'DateStyle'),true),\
                    pg_catalog.set_config(E'DateStyle',E'ISO, DMY',true)) IS NULL";
        let back = "SELECT WHERE pg_catalog.concat(\
                    pg_catalog.set_config(E'TimeZone',pg_catalog.current_setting(E'stagedoor.TimeZone'),true),\
                    pg_catalog.set_config(E'DateStyle',pg_catalog.current_setting(E'stagedoor.DateStyle'),true)) IS NULL";
        assert_eq!(String::from_utf8_lossy(&lend(&settings)), lent);
        assert_eq!(String::from_utf8_lossy(&give_back(&settings)), back);
    }
}
